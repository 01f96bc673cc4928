"""What is changed in a language model's activations, as plain numbers, and how it is written down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from kshot.core.errors import NotFiniteError, UserError
from kshot.core.given_files import opened, text_of
from kshot.core.json_text import from_json, to_json
from kshot.core.paths import path_of
from kshot.core.schema import shaped
from kshot.core.seeding import digest

HOOKED = ("mlp", "heads", "block")  # where activations are read and changed
SITES = (*HOOKED, "attention")
OPERATIONS = ("turn", "add", "mix", "set", "weigh")
SPANS: Mapping[str, tuple[str, ...]] = {"context": ("context",), "asked": ("context", "question")}
WEIGHTS_FILE, ABOUT_FILE = "steering.safetensors", "steering.json"
_FORMAT = 1
_REMEDY = "Copy the whole folder, or fit it again."


class _EditRow(TypedDict):
    layer: int
    site: str
    operation: str
    last_only: bool
    scale: list[float]
    span: NotRequired[str]


class _About(TypedDict):
    format: int
    fingerprint: str
    model: str
    about: dict[str, Any]
    edits: list[_EditRow]


@dataclass(frozen=True)
class Shape:
    """The sizes of a model's activations."""

    n_layers: int
    width: int
    n_heads: int
    head_dim: int

    def at(self, site: str) -> tuple[int, ...]:
        """Return the shape of one token's activation at a site of one layer."""
        if site == "attention":  # one score a head
            return (self.n_heads, 1)
        return (self.n_heads, self.head_dim) if site == "heads" else (self.width,)


@dataclass(frozen=True, eq=False)
class Edit:
    """One change at one place, where x is the activation of a token.

    Attributes:
        layer: From 0.
        site: "mlp", the output of the layer's MLP `[width]`; "block", the residual stream after the layer `[width]`;
            "heads", what the heads hand to the attention's output projection `[n_heads, head_dim]`; "attention", the
            scores of the heads before softmax, one for each token that is looked at.
        operation: "turn" keeps the norm: |x| n(n(x) + mean_i w_i g_i n(v_i)) with n(x) = x / |x| and
            g_i = 1 + max(0, cos(x, -v_i)); "add" is x + mean_i w_i v_i; "mix", for heads, is (1 - w_h) x_h + w_h v_h;
            "set" gives x the component of v along v, x + w (|v| - x . n(v)) n(v), and leaves the others as they are;
            "weigh", for attention, adds w_h v_h to the scores of head h for a prompt's tokens outside the span.
        last_only: Only the last token of a prompt is changed; otherwise every token is, generated ones too.
        vectors: v, float32 `[n, width]`; `[n_heads, head_dim]` for "mix", `[1, width]` for "set", `[n_heads, 1]` for
            "weigh".
        weights: w, float32 `[n]`; `[n_heads]` for "mix" and "weigh".
        span: For "weigh", what is not weighed down: the "context" of what is asked, or all of what is "asked", context
            and question. What follows the prompt is never weighed, nor the model's own reason at its end, nor a prompt
            that has no such span.
    """

    layer: int
    site: str
    operation: str
    last_only: bool
    vectors: NDArray[np.float32]
    weights: NDArray[np.float32]
    span: str = ""

    def __post_init__(self):
        is_mix, shapes = self.operation == "mix", (self.vectors.shape, self.weights.shape)
        weighs = self.operation == "weigh"
        rules = {
            f"site must be one of {', '.join(SITES)}": self.site in SITES,
            f"operation must be one of {', '.join(OPERATIONS)}": self.operation in OPERATIONS,
            "heads alone can be mixed": self.site == "heads" or not is_mix,
            "attention can be weighed, at every token, and nothing else can": weighs == (self.site == "attention")
            and not (weighs and self.last_only),
            f"what is weighed must have a span, {' or '.join(SPANS)}": (self.span in SPANS)
            if weighs
            else not self.span,
            "a component is set along one vector that is not 0, elsewhere than at heads": self.operation != "set"
            or (self.site != "heads" and shapes[0][:1] == (1,) and bool(self.vectors.any())),
            "layer must be 0 or more": self.layer >= 0,
            "each vector must have a weight, and there must be one": len(shapes[0]) >= 2
            and shapes[1] == shapes[0][:1]
            and self.vectors.size > 0,
            "vectors must be float32": self.vectors.dtype == np.float32,
        }
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise UserError(
                f"A change of activations must be one that can be made: {broken[0]}; got layer {self.layer}, site "
                f"'{self.site}', operation '{self.operation}', shapes {shapes}. Fit it again."
            )


@dataclass(frozen=True, eq=False)
class Steering:
    """Changes of activations that are made one after the other.

    Attributes:
        edits: In their order; at one place the first is made first.
        model: Fingerprint of the model that it was fitted on.
        about: How it was made, as JSON.
    """

    edits: tuple[Edit, ...]
    model: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Identify the changes."""
        return digest(
            [
                (
                    e.layer,
                    e.site,
                    e.operation,
                    e.last_only,
                    e.weights.tolist(),
                    _hex(e.vectors),
                    *filter(None, [e.span]),
                )
                for e in self.edits
            ]
        )

    @property
    def acting(self) -> tuple[Edit, ...]:
        """The edits that change something: with weights of 0 one is the identity, to the bit."""
        return tuple(e for e in self.edits if e.weights.any())

    @property
    def last_only(self) -> bool:
        """Whether nothing is changed but the last tokens of prompts."""
        return all(e.last_only for e in self.edits)

    @property
    def spans(self) -> tuple[str, ...]:
        """The spans outside of which attention is weighed."""
        return tuple(name for name in SPANS if any(e.span == name for e in self.edits))

    def check_finite(self) -> None:
        """Raise NotFiniteError if a vector or a weight is not finite."""
        for e in self.edits:
            if not (np.isfinite(e.vectors).all() and np.isfinite(e.weights).all()):
                raise NotFiniteError(
                    f"A steering must be of finite numbers; that of layer {e.layer}, {e.site}, is not. Use a smaller "
                    "strength, or fit it on a model in --dtype float32."
                )

    def then(self, other: "Steering") -> "Steering":
        """Return both stacked: what this one leaves, the other one changes."""
        return replace(self, edits=self.edits + other.edits, about={"stacked": [dict(self.about), dict(other.about)]})

    def scaled(self, factor: float) -> "Steering":
        """Return it with every weight multiplied by `factor`; 0 changes nothing."""
        return replace(self, edits=tuple(replace(e, weights=e.weights * np.float32(factor)) for e in self.edits))

    def __neg__(self) -> "Steering":
        """Return the opposite direction.

        Raises:
            UserError: It replaces activations, which has no opposite, or weighs attention.
        """
        self._check_directions("negated")
        return replace(self, edits=tuple(replace(e, vectors=-e.vectors) for e in self.edits))

    def __add__(self, other: "Steering") -> "Steering":
        """Return the direction that is the sum of both, with this one's weights.

        Raises:
            UserError: They act at different places, or are no directions.
        """
        pairs = self._beside(other, "added")
        if any(a.vectors.shape != b.vectors.shape for a, b in pairs):
            raise UserError(
                "Steerings that are added must have as many vectors each; an average has several. Stack them."
            )
        return replace(self, edits=tuple(replace(a, vectors=a.vectors + b.vectors) for a, b in pairs))

    def _check_directions(self, what: str) -> None:
        does = {
            "mix": "replaces the outputs of heads",
            "set": "sets a component to a number",
            "weigh": "weighs attention",
        }
        if found := [does[e.operation] for e in self.edits if e.operation in does]:
            raise UserError(f"Only directions can be {what}; this steering {found[0]}. Fit one that adds.")

    def _beside(self, other: "Steering", what: str) -> list[tuple[Edit, Edit]]:
        """Return the edits of both that act at the same places, in pairs."""
        self._check_directions(what)
        ours, theirs = (
            [(e.layer, e.site, e.operation, e.last_only, e.vectors.shape[-1]) for e in s.edits] for s in (self, other)
        )
        if ours != theirs:
            raise UserError(f"Steerings that are {what} must act at the same layers and sites; these do not.")
        return list(zip(self.edits, other.edits, strict=True))

    def save(self, folder: str | Path) -> None:
        """Write `steering.safetensors` (the vectors) and `steering.json` (layer, site, scale of each edit).

        Raises:
            NotFiniteError: As `check_finite`.
        """
        self.check_finite()
        from safetensors.numpy import save_file

        folder = path_of(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"edit.{i}": np.ascontiguousarray(e.vectors) for i, e in enumerate(self.edits)}
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"kshot": self.fingerprint})
        rows = [
            {
                "layer": e.layer,
                "site": e.site,
                "operation": e.operation,
                "last_only": e.last_only,
                "scale": e.weights.tolist(),
                **({"span": e.span} if e.span else {}),
            }
            for e in self.edits
        ]
        about = {"format": _FORMAT, "fingerprint": self.fingerprint, "model": self.model, "about": dict(self.about)}
        text = to_json({**about, "edits": rows}, indent=1) + "\n"
        (folder / ABOUT_FILE).write_text(text, "utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Steering":
        """Read what `save` wrote.

        Raises:
            UserError: The files are not there, cannot be read, or do not belong together.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        folder = path_of(folder)
        try:
            said = from_json(text_of(folder / ABOUT_FILE))
            opened(folder / WEIGHTS_FILE).close()  # safetensors would wait for a pipe
            tensors = load_file(folder / WEIGHTS_FILE)
            kept = shaped(_About, said, folder / ABOUT_FILE, _REMEDY)
            edits = tuple(
                Edit(r["layer"], r["site"], r["operation"], r["last_only"], tensors[f"edit.{i}"],
                     np.array(r["scale"], dtype=np.float32), r.get("span", ""))
                for i, r in enumerate(kept["edits"])
            )  # fmt: skip
            found = cls(edits, kept["model"], kept["about"])
            found.check_finite()
            if kept["format"] != _FORMAT or len(tensors) != len(edits) or found.fingerprint != kept["fingerprint"]:
                raise ValueError("they do not belong together, or are of another version")
        except (OSError, ValueError, KeyError, OverflowError, SafetensorError, NotFiniteError, UserError) as error:
            raise UserError(
                f"{folder} must hold a steering, {WEIGHTS_FILE} and {ABOUT_FILE}; {error}. Copy the whole folder, or "
                "fit it again."
            ) from error
        return found


def _hex(values: NDArray[np.float32]) -> str:
    return np.ascontiguousarray(values, dtype="<f4").tobytes().hex()


def averaged(steerings: Sequence[Steering]) -> Steering:
    """Return the steering whose shift at each place is the average of theirs.

    Raises:
        UserError: None given, they act at different places, or are no directions.
    """
    if not steerings:
        raise UserError("An average needs at least one steering; got none.")
    first, *others = steerings
    edits = list(first.edits)
    for other in others:
        pairs = first._beside(other, "averaged")
        edits = [
            replace(e, vectors=np.concatenate([e.vectors, b.vectors]), weights=np.concatenate([e.weights, b.weights]))
            for e, (_, b) in zip(edits, pairs, strict=True)
        ]
    return replace(first, edits=tuple(edits), about={"averaged": [dict(s.about) for s in steerings]})
