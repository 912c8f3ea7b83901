"""The sections [serve], [breaker] and [canary]: the doors, and when a model goes off duty or is tried behind them."""

from typing import Annotated, Literal

from msgspec import Meta

from interlock.units import Count, Duration, Fraction, NotNegative, Positive, Rate, Section, Share


class Log(Section, frozen=True, kw_only=True):
    """[serve.log]: every answer becomes a row of the table `predictions`."""

    on: Annotated[bool, Meta(description="Keep a log of the answers.")] = True
    sample: Annotated[
        Share, Meta(description="Share of the requests that are kept, chosen by the CRC-32 of the prediction id.")
    ] = 1.0
    keep: Annotated[
        Literal["all", "none"] | tuple[str, ...],
        Meta(description="Features that are kept: `all` (but columns of bytes), `none`, or a list of columns."),
    ] = "all"
    redact: Annotated[
        dict[str, Literal["drop", "hash"]],
        Meta(description="Columns that are left out (`drop`), or kept as a keyed hash that only compares (`hash`)."),
    ] = {}
    durable: Annotated[
        bool, Meta(description="Send an answer only when its record is on the disk; slower, and nothing can be lost.")
    ] = False
    flush: Annotated[
        Duration, Meta(description="Records are on the local disk after so long: the most that a crash can lose.")
    ] = "500ms"
    commit: Annotated[Duration, Meta(description="Records become rows of the table in groups, every so often.")] = "1m"
    memory_mb: Annotated[
        Positive, Meta(description="Records that wait to be written, in 10^6 bytes; beyond it they are lost, counted.")
    ] = 64.0
    spool_mb: Annotated[
        Positive,
        Meta(description="Records on the disk that are no rows yet, in 10^6 bytes; beyond it they are lost, counted."),
    ] = 2_000.0


class Oidc(Section, frozen=True, kw_only=True):
    """[serve.oidc]: tokens of an identity provider open doors as keys do. Extra `oidc`."""

    issuer: Annotated[str, Meta(description="Who must have issued a token: its claim `iss`. Empty: no tokens.")] = ""
    audience: Annotated[str, Meta(description="Whom a token must be meant for: its claim `aud`.")] = ""
    jwks: Annotated[
        str, Meta(description="The provider's keys: an https:// address, or a file of the project. RS256 and ES256.")
    ] = ""
    scopes: Annotated[
        str, Meta(min_length=1, description="Claim that lists the scopes: predict, feedback, operate, read.")
    ] = "scope"


class Serve(Section, frozen=True, kw_only=True):
    """[serve]: the release answers online; see `interlock serve`."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on; 0.0.0.0 for all of this machine.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="Port; 0 for any that is free.")] = 8080
    admin_port: Annotated[
        int, Meta(ge=0, le=65535, description="Port of the admin routes, on the same address; 0: there are none.")
    ] = 0
    workers: Annotated[int, Meta(ge=1, le=256, description="Processes that answer, all on the same port.")] = 1
    runners: Annotated[
        int,
        Meta(ge=1, le=64, description="Processes of each worker for a model that only its own code can answer for."),
    ] = 1
    deadline: Annotated[
        Duration, Meta(description="A model that takes longer for its answer is ended, and the next tier answers.")
    ] = "2s"
    keys_file: Annotated[
        str,
        Meta(
            description="File with the API keys, as `interlock keys` writes it. Empty: a random key is made at the "
            "start, and printed once."
        ),
    ] = ""
    max_body_mb: Annotated[Positive, Meta(description="Largest body of a request, in 10^6 bytes.")] = 10.0
    max_rows: Annotated[Count, Meta(description="Most records of one request.")] = 10_000
    probabilities: Annotated[
        bool,
        Meta(
            description="JSON replies of a model that gives labels tell the probability of each class, where a request "
            "does not say otherwise (`?probabilities=false`)."
        ),
    ] = False
    reach: Annotated[
        NotNegative | None,
        Meta(
            description="A number may lie so many times the range of training beyond its ends; what is further out is "
            "answered by the next tier.",
        ),
    ] = 1.0
    access_log: Annotated[
        str,
        Meta(
            description="A line of JSON for each request goes to this file, or to `stderr`: when, id, route, status, "
            "tier, ms, name of the key. Empty: none."
        ),
    ] = ""
    traces: Annotated[
        str,
        Meta(
            pattern=r"^(https?://\S+)?$",
            description="OpenTelemetry spans of requests go to this address, by OTLP over HTTP. Empty: none. Extra "
            "`telemetry`.",
        ),
    ] = ""
    traces_sample: Annotated[
        Share, Meta(description="Share of the requests that are traced, of those that came without a trace.")
    ] = 0.1
    oidc: Annotated[Oidc, Meta(description="Tokens of an identity provider.")] = Oidc()
    request_timeout: Annotated[
        Duration,
        Meta(description="A request that has not arrived whole by then is refused, and its connection closed."),
    ] = "30s"
    max_connections: Annotated[Count, Meta(description="Most connections of one process; one more is refused.")] = (
        10_000
    )
    shed_after: Annotated[
        Duration,
        Meta(
            description="When more arrives than can be answered, so that a turn through all that is there takes longer "
            "than this, again and again for 250 ms, what is later in a turn is refused with 503. 0s: never."
        ),
    ] = "200ms"
    tls_cert: Annotated[
        str, Meta(description="File with the certificate, and those that it hangs on (PEM). Empty: plain HTTP.")
    ] = ""
    tls_key: Annotated[str, Meta(description="File with the private key of tls_cert (PEM).")] = ""
    linger: Annotated[
        Duration,
        Meta(
            description="After SIGTERM requests are still taken for so long, while /readyz says 503. Let it be longer "
            "than a load balancer needs to see that."
        ),
    ] = "0s"
    drain: Annotated[Duration, Meta(description="Requests that run get so long when the server stops.")] = "30s"
    log: Annotated[Log, Meta(description="The prediction log.")] = Log()


class Breaker(Section, frozen=True, kw_only=True):
    """[breaker]: when a model that fails is taken off duty while it serves."""

    false_trips: Annotated[
        Rate, Meta(description="How often a model that is fit may be taken off duty all the same, at the rated load.")
    ] = "1 per year"
    tolerated: Annotated[
        Fraction, Meta(description="Share of records that the champion may fail, where last good does not.")
    ] = 0.001
    rated_load: Annotated[
        Positive, Meta(description="Votes a second; each client has one. Beyond it requests are not counted.")
    ] = 100.0
    retry: Annotated[
        Duration,
        Meta(description="After a failure of time or memory the champion is tried in the shadow after this long."),
    ] = "1m"
    probes: Annotated[
        Count, Meta(description="So many tries in the shadow must go well before it is back on duty.")
    ] = 100
    trips_a_day: Annotated[
        int, Meta(ge=0, description="Automatic trips in a day; the next one pins last good until a person resets.")
    ] = 2
    observe: Annotated[bool, Meta(description="Say what would be done, and do nothing.")] = False


class Canary(Section, frozen=True, kw_only=True):
    """[canary]: what passed the gate is first tried beside the champion, while it serves."""

    share: Annotated[
        Share,
        Meta(description="Share of the records that the challenger answers. 0: what passes the gate is live at once."),
    ] = 0.0
    shadow: Annotated[
        bool, Meta(description="The challenger is asked for its share unseen; the champion answers everybody.")
    ] = False
    key: Annotated[
        str,
        Meta(
            pattern=r"^(|client|header:[A-Za-z0-9-]+|column:.+)$",
            description="What always meets the same model: `column:NAME` of the input, `header:NAME` of the request, "
            "or `client` (the name of the API key, else the address). Empty: the whole record.",
        ),
    ] = ""
    rows: Annotated[Count, Meta(description="Records that it must have answered before it becomes champion.")] = 1_000
    duration: Annotated[Duration, Meta(description="It is tried at least so long.")] = "1h"
    slower: Annotated[
        float,
        Meta(
            ge=0.0,
            description="It is dropped when in the median it takes more than so many times as long as the champion for "
            "the same records, and more than so many milliseconds. 0: time is not judged.",
        ),
    ] = 2.0
