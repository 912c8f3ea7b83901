"""All settings of a project as one frozen :class:`Settings`; ``configuration.py`` reads them from files and variables.

The description of each field is its documentation: the reference page and the JSON schema are generated from it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from interlock.service_level import Load
from interlock.serving import Breaker, Canary, Serve
from interlock.units import SCHEMA_PATTERN, Character, Count, Duration, Fraction, Name, Positive, Section, Share, Size

FILE_NAME = "interlock.toml"
_STEP_SLACK = 1e-8
CATEGORY_CAP = 200
"""A string column with more distinct values than this has no list of categories in the signature."""


class Model(Section, frozen=True, kw_only=True):
    """[model]: what is learned, by whose code."""

    name: Annotated[Name, Meta(description="Name of the model, used in bundles, reports and MLflow folders.")]
    task: Annotated[
        Literal["classification", "regression", "forecast", "ranking", "text", "custom"],
        Meta(
            description="What the answers are: labels, numbers, numbers over time, lists of what was found with the "
            "best first (ranking), text, or anything (custom)."
        ),
    ]
    train: Annotated[str, Meta(description="Training file, or file.py:function. Default function: train.")] = "train.py"
    predict: Annotated[
        str, Meta(description="Inference file, or file.py:function. Empty: the model's own .predict answers.")
    ] = ""
    target: Annotated[str, Meta(description="Column to predict. Training sees it, inference does not.")] = ""
    features: Annotated[
        tuple[str, ...],
        Meta(description="Columns the model may see, in order. Empty: all but the target and the key."),
    ] = ()
    include: Annotated[
        tuple[str, ...],
        Meta(description="More files of the project to pack, as globs. Local imports are found without it."),
    ] = ()
    seed: Annotated[int, Meta(ge=0, lt=2**32, description="Seed of everything random; recorded.")] = 0
    deadline: Annotated[Duration, Meta(description="Training is stopped after this long.")] = "1h"
    predict_deadline: Annotated[Duration, Meta(description="One call of inference is stopped after this long.")] = "5m"
    memory: Annotated[Size | None, Meta(description="Training or inference is stopped above this. Linux only.")] = None
    confined: Annotated[bool, Meta(description="Your code reads no inbox, and writes to its own folders only.")] = False


class Script(Section, frozen=True, kw_only=True):
    """[script]: how a training file that is a program is run, and what SageMaker's inference functions are given."""

    when: Annotated[
        Literal["auto", "always"],
        Meta(description="Run the training file as a program: when it has a __main__ guard and no `train`, or always."),
    ] = "auto"
    channels: Annotated[
        tuple[Name, ...],
        Meta(description="Folders of rows it is given. Empty: those whose SM_CHANNEL_NAME its files read, else train."),
    ] = ()
    format: Annotated[
        Literal["csv", "parquet", "libsvm", "npy"],
        Meta(description="Format of the channels' files. npy: x_CHANNEL.npy and y_CHANNEL.npy."),
    ] = "csv"
    header: Annotated[
        bool | None,
        Meta(description="CSV has a line with the column names. Default: no, as SageMaker; yes for Vertex."),
    ] = None
    target_first: Annotated[bool, Meta(description="The target is the first column of a channel, else the last.")] = (
        True
    )
    files: Annotated[
        dict[str, Name], Meta(description="Name of a channel's file. Default: the channel's name and the format.")
    ] = {}
    layout: Annotated[
        Literal["local", "opt-ml"],
        Meta(description="Where its folders are: in the working folder, or mounted at /opt/ml for it alone (Linux)."),
    ] = "local"
    metric_definitions: Annotated[
        dict[str, str],
        Meta(description="Training metrics found in what it prints: name = regular expression with one group."),
    ] = {}
    content_type: Annotated[
        str, Meta(description="What input_fn is given. Empty: the first that it takes of CSV, JSON, npy and libsvm.")
    ] = ""
    accept: Annotated[
        str, Meta(description="What output_fn is asked for. Empty: the first that it gives of JSON, CSV and npy.")
    ] = ""
    rows_per_call: Annotated[
        int, Meta(ge=0, description="Rows given to the inference functions at a time; 0 means all there are.")
    ] = 0


class HoldoutSpec(Section, frozen=True, kw_only=True):
    """[data.holdout]: which rows are kept for judging."""

    fraction: Annotated[
        Fraction | None, Meta(description="Share of rows kept for judging, chosen by a hash of the key.")
    ] = None
    key: Annotated[
        tuple[str, ...],
        Meta(
            description="Columns hashed for the split. Default: the source's key, else the whole row; the digest of "
            "the bytes for images."
        ),
    ] = ()
    last: Annotated[
        Duration | None, Meta(description="Judge on the newest rows: this long before the newest time.")
    ] = None
    time: Annotated[str | None, Meta(description="Date or datetime column that `last` is measured on.")] = None
    inbox: Annotated[str | None, Meta(description="Judge on rows that arrive in this inbox and nowhere else.")] = None


Files = Literal["tables", "images"]
IMAGE_COLUMNS = ("file", "image", "digest")
"""Columns of every source of images, beside that of the label: name in the inbox, the bytes, BLAKE3 of the bytes."""


class Source(Section, frozen=True, kw_only=True):
    """[data] or [data.sources.NAME]: one inbox and its rules."""

    inbox: Annotated[
        str, Meta(description="Folder (relative to the project) or s3://bucket/prefix where files land.")
    ] = ""
    files: Annotated[
        Files,
        Meta(
            description="What lands there: tables (CSV, Parquet, JSON lines), each of many rows, or images (.png .jpg "
            ".jpeg .gif .bmp .tif .tiff .webp), each of which is one row: file (its name), label (its folder), image "
            "(its bytes), digest (BLAKE3 of them)."
        ),
    ] = "tables"
    label: Annotated[
        str, Meta(description="Only for images: what the column with the name of an image's folder is called.")
    ] = "label"
    key: Annotated[
        tuple[str, ...],
        Meta(
            description="Columns that name a row; duplicates are found by it. Empty: the whole row, and 'file' for "
            "images."
        ),
    ] = ()
    on_duplicate: Annotated[
        Literal["keep-last", "keep-first", "refuse"],
        Meta(description="A key seen before: the new row wins, the old row stays, or the file is refused whole."),
    ] = "keep-last"
    max_bad_rows: Annotated[
        Share | None,
        Meta(description="Share of bad rows above which a file is refused whole. Default: that of [data]."),
    ] = None
    types: Annotated[
        dict[str, Literal["bool", "int", "float", "str", "date", "datetime", "bytes"]],
        Meta(description="Types of columns, where what is inferred from the first file is not right."),
    ] = {}
    nullable: Annotated[
        tuple[str, ...], Meta(description="Columns that may be empty, although none was empty so far. '*' means all.")
    ] = ()
    new_columns: Annotated[
        Literal["ignore", "add", "refuse"],
        Meta(description="A column that was not there before: leave it out and say so, add it, or refuse the file."),
    ] = "ignore"
    optional: Annotated[
        tuple[str, ...], Meta(description="Columns that a file may lack; their rows are empty there.")
    ] = ()
    contract: Annotated[
        str,
        Meta(description="A data contract (ODCS 3, YAML) of the project that the rows must keep. Extra `contract`."),
    ] = ""
    delimiter: Annotated[Character | None, Meta(description="Delimiter of CSV files. Default: found per file.")] = None
    reference: Annotated[
        bool,
        Meta(
            description="Rows that training may see whole, under the source's name (documents to search, a catalogue): "
            "they are not learnt from row by row, never held out, and need no place in data.query."
        ),
    ] = False


def completed(source: Source) -> Source:
    """The source with the defaults that images have: named by their file, and without a label at the top."""
    if source.files == "tables":
        return source
    types = {name: "bytes" if name == "image" else "str" for name in (*IMAGE_COLUMNS, source.label)}
    return msgspec.structs.replace(
        source,
        key=source.key or ("file",),
        nullable=tuple(dict.fromkeys((*source.nullable, source.label))),
        types={**types, **source.types},
    )


class Data(Source, frozen=True, kw_only=True):
    """[data]: where rows come from."""

    sources: Annotated[
        dict[str, Source],
        Meta(description="Several inboxes, by name. One source may be written straight under [data]."),
    ] = {}
    query: Annotated[
        str,
        Meta(description="DuckDB SQL over the sources by name, giving the training rows. Default: the only source."),
    ] = ""
    query_deadline: Annotated[Duration, Meta(description="The query is stopped after this long.")] = "10m"
    holdout: Annotated[HoldoutSpec, Meta(description="Rows kept for judging.")] = HoldoutSpec(fraction=0.2)
    max_bad_rows: Annotated[Share, Meta(description="Share of bad rows above which a file is refused whole.")] = 0.01


class Dimension(Section, frozen=True, kw_only=True):
    """[tune.space.NAME]: the values that one parameter may take, from low to high, or one of some choices."""

    low: Annotated[
        int | float | None,
        Meta(
            description="Smallest value. Whole numbers are searched when low, high and step are written as whole "
            "numbers, else floats."
        ),
    ] = None
    high: Annotated[int | float | None, Meta(description="Largest value.")] = None
    log: Annotated[bool, Meta(description="Search by order of magnitude; low must be above 0.")] = False
    step: Annotated[int | float | None, Meta(description="Only low, low + step, low + 2 step, … up to high.")] = None
    choices: Annotated[
        tuple[bool | int | float | str, ...], Meta(description="The values themselves, instead of low and high.")
    ] = ()

    @property
    def whole(self) -> bool:
        """Whether whole numbers are searched."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.step) if bound is not None)

    def holds(self, value: object) -> bool:
        """Whether ``value`` is among those that the search may try; a range without both ends holds nothing."""
        if self.choices:
            return any(type(choice) is type(value) and choice == value for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float) or self.low is None or self.high is None:
            return False
        if self.whole and not isinstance(value, int):
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return self.low <= value <= self.high and abs(steps - round(steps)) < _STEP_SLACK


class Tune(Section, frozen=True, kw_only=True):
    """[tune]: search for better parameters before training; needs the extra `tune`."""

    trials: Annotated[int, Meta(ge=0, description="How many settings of the parameters are tried. 0: no search.")] = 0
    space: Annotated[
        dict[str, Dimension],
        Meta(description="What is searched, by parameter. A value in [params] is where the search begins."),
    ] = {}
    every: Annotated[
        Duration | None,
        Meta(
            description="Search again on new rows when the last search is older than this. Default: only when the "
            "code, the space, [params] or the metric changes, or `interlock run --tune` asks for it."
        ),
    ] = None
    timeout: Annotated[
        Duration | None, Meta(description="Begin no more trials after this long; what was found by then is taken.")
    ] = None
    deadline: Annotated[
        Duration | None, Meta(description="One trial is stopped after this long, and failed. Default: model.deadline.")
    ] = None
    patience: Annotated[
        Count | None, Meta(description="End the search after so many trials in a row without a better one.")
    ] = None
    parallel: Annotated[
        int, Meta(ge=1, le=64, description="Trials at once. Above 1 a repeated search may try other values.")
    ] = 1
    folds: Annotated[
        int,
        Meta(
            ge=1,
            le=20,
            description="1: score on one fifth of the training rows, the newest ones in a split by time. More: mean "
            "over so many folds, each later than what it was trained on in a split by time.",
        ),
    ] = 1
    sampler: Annotated[
        Literal["tpe", "random"], Meta(description="Who proposes: Parzen estimators (TPE), or chance. Both seeded.")
    ] = "tpe"
    pruner: Annotated[
        Literal["median", "none"],
        Meta(description="Give a trial up when what it reports is worse than the median of the earlier ones."),
    ] = "median"


class Gate(Section, frozen=True, kw_only=True):
    """[gate]: what a candidate must show before it is released."""

    metric: Annotated[
        str,
        Meta(description="What decides: a scikit-learn name, or file.py:function(y_true, y_pred). Default by task."),
    ] = ""
    greater_is_better: Annotated[bool | None, Meta(description="Only for your own metric function. Default: true.")] = (
        None
    )
    also: Annotated[tuple[str, ...], Meta(description="More metrics to compute and show.")] = ()
    at_least: Annotated[float | None, Meta(description="The candidate's score must reach this.")] = None
    min_gain: Annotated[float, Meta(ge=0.0, description="The gain must exceed this, beyond doubt.")] = 0.0
    confidence: Annotated[float, Meta(ge=0.5, lt=1.0, description="Confidence of every comparison.")] = 0.95
    slices: Annotated[tuple[str, ...], Meta(description="Columns whose values are judged one by one.")] = ()
    min_slice_rows: Annotated[int, Meta(ge=1, description="Smaller slices are shown, not judged.")] = 30
    too_good: Annotated[
        float,
        Meta(
            gt=0.0,
            le=1.0,
            description="Hold when this share of the champion's error vanishes at once, or all error does.",
        ),
    ] = 0.9
    max_asks: Annotated[
        int, Meta(ge=1, description="How often one holdout may be asked before it counts as worn out.")
    ] = 100
    max_latency_ms: Annotated[Positive | None, Meta(description="Largest median time to answer one row.")] = None
    max_size_mb: Annotated[Positive | None, Meta(description="Largest size of the bundle, in 10^6 bytes.")] = None
    approval: Annotated[bool, Meta(description="A person must approve what the gate would promote.")] = False
    row_by_row: Annotated[
        bool,
        Meta(description="Hold a model whose answer to a row depends on the other rows, on their order, or on chance."),
    ] = True


class Batch(Section, frozen=True, kw_only=True):
    """[batch]: files that are scored by the release in force."""

    inbox: Annotated[str, Meta(description="Folder or s3://bucket/prefix with files to score.")] = ""
    files: Annotated[
        Files, Meta(description="What lands there: tables, or images, which are answered together by their names.")
    ] = "tables"
    output: Annotated[str, Meta(description="Folder or s3://bucket/prefix for published predictions.")] = "predictions"
    keep: Annotated[
        tuple[str, ...],
        Meta(description="Columns copied next to the prediction. Default: the key columns that are there."),
    ] = ()
    max_bad_rows: Annotated[
        Share, Meta(description="Share of rows that may break the signature before nothing is published.")
    ] = 0.01
    max_shift: Annotated[
        float, Meta(gt=0.0, description="Largest distance (PSI) of the predictions from those on the holdout.")
    ] = 1.0
    max_new_categories: Annotated[
        Share, Meta(description="Share of rows that may hold a category never seen in training.")
    ] = 0.2
    fallback: Annotated[
        tuple[Literal["last-good", "baseline"], ...],
        Meta(description="Who answers while the champion is damaged, in this order; [] for nobody."),
    ] = ("last-good", "baseline")


class Store(Section, frozen=True, kw_only=True):
    """[store]: where memory is kept."""

    state: Annotated[
        str,
        Meta(
            description="Where the ledger and the release live: sqlite, sqlite:///FILE, or "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE."
        ),
    ] = "sqlite"
    network_disk: Annotated[
        Literal["refuse", "allow"], Meta(description="SQLite on NFS, SMB or sshfs, where locks do not hold.")
    ] = "refuse"
    schema: Annotated[
        str,
        Meta(
            pattern=SCHEMA_PATTERN,
            description="Schema of the Postgres database, created when missing; one for each project.",
        ),
    ] = "interlock"
    project: Annotated[
        str,
        Meta(description="Name that the state belongs to. Default: model.name; set it when the model is renamed."),
    ] = ""
    lake: Annotated[
        str, Meta(description="Where rows, snapshots, bundles and evidence live: a folder, or s3://bucket/prefix.")
    ] = ".interlock/lake"
    timeout: Annotated[
        Duration,
        Meta(description="Longest wait for one request to an object store; operations take four times that."),
    ] = "20s"
    cache_gb: Annotated[
        float, Meta(gt=0.0, description="Gigabytes of local copies kept of a lake that is not on this machine.")
    ] = 20.0
    tracking: Annotated[
        str,
        Meta(
            description="An MLflow server that is told of trainings, models and releases, as http://host:5000. "
            "Empty: the variable MLFLOW_TRACKING_URI, if it is set. off: none."
        ),
    ] = ""
    tracking_deadline: Annotated[
        Duration, Meta(description="How long a turn may wait for the MLflow server; the rest is told the next time.")
    ] = "10s"


class Lineage(Section, frozen=True, kw_only=True):
    """[lineage]: OpenLineage events, one run for each stage of a turn."""

    to: Annotated[
        str, Meta(description="Where they go: a file (one event a line), or an http(s) URL. Empty: nowhere.")
    ] = ""
    namespace: Annotated[str, Meta(min_length=1, description="Namespace of the jobs.")] = "interlock"
    deadline: Annotated[
        Duration, Meta(description="How long a turn may wait for them to be taken; the rest is told the next time.")
    ] = "10s"


class Settings(Section, frozen=True, kw_only=True):
    """All settings of one project. ``root``: its folder; ``environment``: the chosen ``[env.NAME]``, or empty."""

    model: Model
    params: dict[str, Any] = {}
    script: Script = Script()
    data: Data = Data()
    tune: Tune = Tune()
    gate: Gate = Gate()
    batch: Batch = Batch()
    serve: Serve = Serve()
    breaker: Breaker = Breaker()
    canary: Canary = Canary()
    load: Load = Load()
    store: Store = Store()
    lineage: Lineage = Lineage()
    root: Path = msgspec.field(default_factory=Path)
    environment: str = ""

    @property
    def offered_params(self) -> dict[str, Any]:
        """``params``, and the parameters that only the search knows (None before it has found them)."""
        searched = self.tune.space if self.tune.trials else {}
        return {**dict.fromkeys(searched), **self.params}

    @property
    def sources(self) -> dict[str, Source]:
        """Sources by name; the one written straight under [data] is called ``data``."""
        if self.data.sources:
            return {name: completed(source) for name, source in self.data.sources.items()}
        fields = {name: getattr(self.data, name) for name in Source.__struct_fields__}
        return {"data": completed(Source(**fields))}

    @property
    def row_sources(self) -> dict[str, Source]:
        """The sources whose rows are learnt from and judged by: all but those for reference."""
        return {name: source for name, source in self.sources.items() if not source.reference}

    def bad_row_share(self, source: Source) -> float:
        """Share of bad rows above which a file of ``source`` is refused."""
        return self.data.max_bad_rows if source.max_bad_rows is None else source.max_bad_rows

    def path(self, text: str) -> Path:
        """A path of the settings, taken relative to the project folder."""
        return (self.root / text).resolve()

    @property
    def tracking_uri(self) -> str:
        """The MLflow server to tell, or empty."""
        return "" if self.store.tracking == "off" else self.store.tracking

    @property
    def is_followed(self) -> bool:
        """Whether another system is told what happens."""
        return bool(self.tracking_uri or self.lineage.to)

    @property
    def home(self) -> Path:
        """Where Interlock keeps what is local to this machine."""
        return self.root / ".interlock"

    @property
    def state_path(self) -> Path | None:
        """The SQLite file that ``store.state`` names, percent-decoded; None when it names a server."""
        if self.store.state == "sqlite":
            return self.home / "state.db"
        if not self.store.state.startswith("sqlite:///"):
            return None
        return self.path(unquote(self.store.state.removeprefix("sqlite:///")))

    @property
    def project(self) -> str:
        """The name that the state belongs to."""
        return self.store.project or self.model.name
