"""The section [serve] of the settings: the doors through which a release answers online."""

from typing import Annotated

from msgspec import Meta

from interlock.units import Count, Duration, NotNegative, Positive, Section


class Serve(Section, frozen=True, kw_only=True):
    """[serve]: the release answers online; see `interlock serve`."""

    host: Annotated[str, Meta(min_length=1, description="Address to listen on; 0.0.0.0 for all of this machine.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="Port; 0 for any that is free.")] = 8080
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
    reach: Annotated[
        NotNegative | None,
        Meta(
            description="A number may lie so many times the range of training beyond its ends; what is further out is "
            "answered by the next tier.",
        ),
    ] = 1.0
    drain: Annotated[Duration, Meta(description="Requests that run get so long when the server stops.")] = "30s"
