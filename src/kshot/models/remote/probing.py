"""Which routes a service has that can be trusted: tried best first, by requests whose answers are known."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from kshot.core.api_settings import ApiSettings
from kshot.core.errors import NoAnswerError, RefusedError, UserError, did_you_mean
from kshot.core.plugins import resolve
from kshot.models.remote.route import Refusal, Route
from kshot.models.remote.service import HttpService, same_model
from kshot.models.remote.tokenizing import tokenizer_of

# Best first: those that read the labels' own tokens with little before those that read what stands for a label, as vLLM
# and SGLang serve decisions of ordinary models too, in a prompt of their own and for 26 labels at most.
ROUTES = {
    "token-ids": "kshot.models.remote.token_ids:TokenIds",
    "score": "kshot.models.remote.sglang_score:SglangScore",
    "llama.cpp": "kshot.models.remote.llama_cpp:LlamaCpp",
    "decisions": "kshot.models.remote.decisions:Decisions",
    "systemone": "kshot.models.remote.systemone:SystemOne",
    "letters": "kshot.models.remote.letters:Letters",
    "echo": "kshot.models.remote.echo:Echo",
    "constrained": "kshot.models.remote.constrained:Constrained",
}
_FIRST_ATTEMPTS, _PROBE_ATTEMPTS = 2, 6


@dataclass(frozen=True)
class Found:
    """What a service was found to be.

    Attributes:
        routes: Names of the routes that can be trusted, best first; those after the first are for requests with more
            labels than the ones before them take.
        why_not: Name of each route that was tried before the last of them, with why it cannot be trusted, and of one
            that is taken though its probe was refused.
        tokenizer: How the server's own tokenizer is asked; "none" where it cannot be.
        max_tokens: The longest prompt with its answer, if the server says it.
    """

    routes: tuple[str, ...]
    why_not: Mapping[str, str]
    tokenizer: str
    max_tokens: int | None

    @property
    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """Return what `record` was."""
        return cls(tuple(record["routes"]), record["why_not"], record["tokenizer"], record["max_tokens"])


def route_of(name: str, settings: ApiSettings) -> Route:
    """Return a route by its name."""
    made = resolve(ROUTES[name])
    return made(samples=settings.samples) if name == "constrained" else made()


def check_route(settings: ApiSettings) -> None:
    """Raise UserError where an unknown route is named."""
    for name in settings.routes:
        if name not in ROUTES:
            raise UserError(f"--api route must be a known one; got '{name}'.{did_you_mean(name, ROUTES)}")


async def probe(service: HttpService, settings: ApiSettings, *, takes_refusal: bool = False) -> Found:
    """Find out what a service can be asked.

    Args:
        service: Is asked.
        settings: How.
        takes_refusal: A route is taken too where the service refuses the questions whose answers are known, which
            tells nothing of others; `why_not` has then what it says.

    Raises:
        UserError: It is not there, does not know the model, or has no route that can be trusted.
    """
    max_tokens, tokenizer = await _about(service), await tokenizer_of(service)
    if max_tokens is None and tokenizer and tokenizer.kind == "llama.cpp":
        max_tokens = await _context_of_llama_cpp(service)
    asked, trusted, why_not = service.metered(attempts=_PROBE_ATTEMPTS), list[Route](), dict[str, str]()
    for name in settings.routes or ROUTES:
        route = route_of(name, settings)
        if trusted and route.in_messages != trusted[0].in_messages:
            continue  # how prompts are written is the same for all requests
        try:
            why = await route.probe(asked)
        except NoAnswerError as error:
            why = str(error)
        is_taken = why is None or (takes_refusal and isinstance(why, Refusal))
        if is_taken:
            trusted.append(route)
            if route.most is None:
                break
        if why is not None and (is_taken or not trusted):
            why_not[name] = why
    if not trusted:
        told = "; ".join(f"{name}: {why}" for name, why in why_not.items())
        raise UserError(
            f"'{service.model}' at {service.url} must tell probabilities of labels by a route that can be trusted; "
            f"none of those tried can. {told}. Take another server or model."
        )
    return Found(tuple(r.name for r in trusted), why_not, service.memory["tokenizer"], max_tokens)


async def _about(service: HttpService) -> int | None:
    """Return the longest prompt with its answer that the server names.

    Raises:
        UserError: It does not know the model, or is not there.
    """
    try:
        try:
            answer = await service.metered(attempts=_FIRST_ATTEMPTS).get("/models")
        except NoAnswerError as error:
            if not error.is_there:
                raise
            answer = await service.get("/models")  # as often as anything else: it is there, and may be busy
    except RefusedError:
        return None  # a server need not tell its models
    except NoAnswerError as error:
        raise UserError(str(error)) from None
    rows = answer.get("data") if isinstance(answer, dict) else None
    known = [row for row in rows or [] if isinstance(row, dict) and isinstance(row.get("id"), str)]
    own = next((row for row in known if same_model(service.model, row["id"])), None)
    if known and own is None and not service.is_openai:
        raise UserError(
            f"The model must be one that {service.url} has; got '{service.model}'."
            f"{did_you_mean(service.model, [row['id'] for row in known])}"
        )
    meta = (own or {}).get("meta")
    places = (own or {}, meta if isinstance(meta, dict) else {})
    return next((int(p[k]) for p in places for k in ("max_model_len", "n_ctx") if isinstance(p.get(k), int)), None)


async def _context_of_llama_cpp(service: HttpService) -> int | None:
    try:
        answer = await service.get("../props")
    except RefusedError:
        return None
    own = answer.get("default_generation_settings") if isinstance(answer, dict) else None
    n_tokens = own.get("n_ctx") if isinstance(own, dict) else None
    return n_tokens if isinstance(n_tokens, int) else None
