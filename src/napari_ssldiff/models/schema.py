"""The form of card files, checked in one place; the text of what is wrong with one.

Importing pydantic takes longer than reading a card, so this module is imported where a card is
read and never with the package.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from napari_ssldiff.models.merging import merged

Unit = Literal["micrometer", "meter"]
Triple = tuple[float, float, float]
Text = Annotated[str, Field(min_length=1)]
#: Also the name of a folder, with ``@version`` behind it.
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

#: The parts of a model that hold weights.
PARTS = ("autoencoder", "denoiser", "conditioning", "translation", "encoder")


class _Open(BaseModel):
    """Unknown keys are somebody's notes, unless they look like a slip of the pen."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _no_slips(cls, data: Any) -> Any:
        known = {field.alias or name for name, field in cls.model_fields.items()}
        for key in data if isinstance(data, Mapping) else ():
            near = difflib.get_close_matches(str(key), known, 1, 0.84)
            if key not in known and near:
                raise ValueError(f"the key {key!r} is not known; {near[0]!r} is")
        return data


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class _Part(_Open):
    weights: list[Text] = []


class Autoencoder(_Part):
    """Pixels ↔ latents."""

    class_: Text = Field(alias="class")
    config: dict[str, Any]
    factor: PositiveInt
    channels: PositiveInt
    patch: PositiveInt = 1
    linear: int = Field(0, ge=0)
    border: int = Field(4, ge=0)


class Control(_Closed):
    """A ControlNet beside the denoiser; its weights are among the denoiser's."""

    blocks: PositiveInt


class Adapter(_Closed):
    """A LoRA in the checkpoint, merged into the denoiser at the import."""

    rank: PositiveInt
    alpha: PositiveFloat
    base: Id | None = None


class Network(_Part):
    """The denoiser."""

    class_: Text = Field(alias="class")
    config: dict[str, Any]
    prediction: Literal["epsilon", "v_prediction", "sample"]
    control: Control | None = None
    adapter: Adapter | None = None


class Conditioning(_Part):
    """From embeddings to what the denoiser reads; each kind has keys of its own."""

    kind: Text = "grid"
    context: PositiveInt | None = None
    spatial: int | None = Field(None, ge=0)
    null_condition: Text | None = None


class Translation(_Part):
    """From the source's embeddings to those of another stain, by a flow."""

    source: Text = Field(alias="from")
    target: Text = Field(alias="to")
    hidden: int = Field(gt=0, multiple_of=2)
    blocks: PositiveInt
    steps: int = Field(ge=1, le=1000)
    scale: PositiveFloat | None = None


class Encoder(_Part):
    """From pixels to embeddings."""

    id: Text
    library: Text
    name: Text
    options: dict[str, Any] = {}
    input: PositiveInt
    mean: Triple
    std: Triple
    width: PositiveInt
    token: Text = "pooled"
    resolution: PositiveFloat | None = None
    unit: Unit | None = None
    patch: PositiveInt | None = None
    detail: PositiveInt = 1
    patches: PositiveInt = 1
    absent: Text | None = None


class Ref(_Open):
    """A component by id; other keys override its own."""

    ref: Id


def _kind(value: Any) -> str:
    return "ref" if isinstance(value, Mapping) and "ref" in value else "part"


def _or_ref(part: type[BaseModel]) -> Any:
    choice = Annotated[part, Tag("part")] | Annotated[Ref, Tag("ref")]  # type: ignore[valid-type]
    return Annotated[choice, Discriminator(_kind)]


class Student(_Part):
    """A LoRA that makes the denoiser a few-step student."""

    rank: PositiveInt
    alpha: PositiveFloat
    steps: PositiveInt
    guidance: float


class Licence(_Closed):
    """Under what terms weights may be used."""

    name: Text
    url: Text | None = None
    terms: Text | None = None
    commercial: Literal[True, False, "unknown"] = "unknown"
    gated: bool = False
    gate_url: Text | None = None


class SourceFile(_Closed):
    """One file of a source; its name is relative to the source's root."""

    name: Text
    size: PositiveInt | None = None
    sha256: Sha256 | None = None

    @field_validator("name")
    @classmethod
    def _inside(cls, name: str) -> str:
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise ValueError("must be a relative path without '..'")
        return name


class Source(_Closed):
    """One place that has all files of a model; several sources are alternatives.

    ``size_about`` are the bytes of all files together where only a rounded figure is published: it
    is shown as that, and no download is compared with it.
    """

    kind: Literal["hub", "drive", "url"]
    repo: Text | None = None
    revision: Text | None = None
    url: Text | None = None
    files: list[SourceFile] = []
    size_about: PositiveInt | None = None
    layout: Text | None = None
    note: Text | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Source:
        if self.kind == "hub" and not (self.repo and self.files):
            raise ValueError("a source of kind hub needs repo and files")
        if self.kind != "hub" and not self.url:
            raise ValueError(f"a source of kind {self.kind} needs a url")
        return self


class Imported(_Closed):
    """Where an installed card's weights came from."""

    file: Text
    sha256: Sha256
    form: Text | None = None
    layout: Text | None = None
    base: Text | None = None
    repo: Text | None = None
    revision: Text | None = None
    date: Text
    package: Text
    hash_known: bool


def _named_licence(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class _Card(_Open):
    id: Id
    name: Text
    description: Text
    licence: Annotated[Licence, BeforeValidator(_named_licence)]
    citation: Annotated[list[Text], BeforeValidator(_listed)] = []
    sources: list[Source] = []
    sizes: dict[str, PositiveInt] = {}
    verified: list[Text] = []
    variants: dict[str, dict[str, Any]] = {}
    weights: dict[str, Sha256] = {}
    imported: Imported | None = None


class Model(_Card):
    """A whole model."""

    kind: Literal["model"] = "model"
    domain: Text
    resolution: PositiveFloat
    unit: Unit
    window: PositiveInt
    cell: PositiveInt
    tokens: PositiveInt | None = None
    guidance: float
    guidance_range: tuple[float, float] | None = None
    autoencoder: _or_ref(Autoencoder)  # type: ignore[valid-type]
    denoiser: Network
    conditioning: Conditioning
    translation: Translation | None = None
    scheduler: dict[str, Any]
    encoder: _or_ref(Encoder)  # type: ignore[valid-type]
    evaluation_encoder: _or_ref(Encoder) | None = None  # type: ignore[valid-type]
    student: Student | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Model:
        if self.window % self.cell:
            raise ValueError(f"the window of {self.window} is no multiple of the cell {self.cell}")
        if self.tokens not in (None, self.window // self.cell):
            raise ValueError(f"tokens is {self.tokens}, but window / cell is "
                             f"{self.window // self.cell}")  # fmt: skip
        return self


class EncoderCard(_Card):
    """An encoder that several models share."""

    kind: Literal["encoder"]
    encoder: Encoder


class AutoencoderCard(_Card):
    """An autoencoder that several models share."""

    kind: Literal["autoencoder"]
    autoencoder: Autoencoder


_FORMS: dict[str, type[_Card]] = {
    "model": Model,
    "encoder": EncoderCard,
    "autoencoder": AutoencoderCard,
}


def check(data: Any) -> str | None:
    """What is wrong with a card's data, in one line; ``None`` where nothing is.

    Up to three faults are told, each with its field as a dotted path, the value, and what is
    allowed.
    """
    if not isinstance(data, Mapping):
        return f"it holds {_short(data)}, not a mapping"
    kind = data.get("kind", "model")
    if kind not in _FORMS:
        return f"kind is {_short(kind)}, allowed are {', '.join(_FORMS)}"
    try:
        _FORMS[kind].model_validate(_named(data))
    except ValidationError as error:
        return _told(error)
    for name, changes in (data.get("variants") or {}).items():
        try:
            _FORMS[kind].model_validate({**merged(data, changes), "variants": {}})
        except ValidationError as error:
            return f"variant {name}: {_told(error)}"
    return None


def _named(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A component's own mapping need not repeat the card's id."""
    part = data.get("encoder")
    if data.get("kind") == "encoder" and isinstance(part, Mapping) and "id" not in part:
        return {**data, "encoder": {"id": data.get("id"), **part}}
    return data


def _told(error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    missing = [_dotted(fault["loc"]) for fault in faults if fault["type"] == "missing"]
    told = [f"it lacks {', '.join(missing)}"] if missing else []
    for fault in faults:
        if fault["type"] == "missing":
            continue
        where, said = _dotted(fault["loc"]), fault["msg"].removeprefix("Value error, ")
        if fault["type"] in ("extra_forbidden", "value_error"):
            told.append(f"{where}: {'this key is not known' if 'extra' in fault['type'] else said}")
        else:
            told.append(f"{where} is {_short(fault['input'])}: {said[:1].lower()}{said[1:]}")
    more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
    return " ".join(("; ".join(told[:3]) + more).split())


def _dotted(place: tuple[int | str, ...]) -> str:
    text = ""
    for before, part in zip((None, *place), place, strict=False):
        if part in ("part", "ref") and before in ("autoencoder", "encoder", "evaluation_encoder"):
            continue  # the tag of a union, no key of the file
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "the card"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "…"
