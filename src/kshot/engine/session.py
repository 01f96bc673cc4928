"""A session: how one model uses a backbone that it shares with others.

Everything that changes the backbone while it runs - trained weights in place, hooks of a steering, the attention
function, the places of marked tokens - happens inside `active`, which holds the backbone's lock: threads take turns,
and each finds the backbone as its own model needs it. What is scored is kept in a store and resumes to the same bits.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, Self, TypeVar

import numpy as np
import torch

from kshot.core.errors import ModelError
from kshot.core.ledger import Cost, Ledger
from kshot.core.lessons import TrainingText
from kshot.core.models import Capability, ChatFormat, Store
from kshot.core.seeding import digest
from kshot.core.steering import Steering
from kshot.core.types import EncodedPrompt, FloatArray, GenerateRequest, Generation, Prompt, ScoreRequest
from kshot.engine.encoding import Asked, Encoded, Encoder
from kshot.engine.generation import generate_packed, generate_plain, groups_of, needed_groups
from kshot.engine.remembered import Beginning, Memory, groups, memory_of
from kshot.engine.scoring import begin, score_joined, score_packed, score_plain
from kshot.engine.training_rows import TrainingRow
from kshot.engine.trie import IntArray, Tree, build_tree, cut, packs_for, path_of
from kshot.models.hf import Backbone, NotPackableError
from kshot.models.hooks import check, steered

T = TypeVar("T")
Row = tuple[str, FloatArray, float]  # key, log-probabilities, seconds

ENGINE_VERSION = 3
_GROUP_ROWS, _GROUP_ANSWERS = 8192, 32  # remembered tokens, and answers written at once
_TRIAL_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


class Session:
    """Scores and writes on a backbone; what can be trained or read besides is added by `Engine` and `TrainedEngine`.

    Args:
        backbone: The network.
        store: Where scores are kept; None keeps nothing.
        pack_tokens: Most tokens in a forward pass; by default 512 on the CPU, 8,192 elsewhere.
        memory_limit_bytes: What the logits of a pack may take.
    """

    capabilities = frozenset({Capability.SCORE, Capability.GENERATE, Capability.ACTIVATIONS, Capability.MEMORY})
    is_remote = False
    about: Mapping[str, Any] = {}
    in_messages = False

    def __init__(
        self,
        backbone: Backbone,
        *,
        store: Store | None = None,
        pack_tokens: int | None = None,
        memory_limit_bytes: int = 512 * 2**20,
    ):
        self.backbone = backbone
        self.steering: Steering | None = None
        self._memory: Memory | None = None
        self._encoder = Encoder(backbone)
        self._store = store
        self._pack_tokens = pack_tokens or (512 if backbone.device.type == "cpu" else 8192)
        # Logits and their exponentials, in float32
        self._pack_scored = max(1, memory_limit_bytes // (8 * backbone.vocab_size))

    @property
    def name(self) -> str:
        """How the user named the model."""
        return self.backbone.name

    @property
    def origin(self) -> Mapping[str, Any]:
        """How to load it again."""
        return self.backbone.origin

    @property
    def fingerprint(self) -> str:
        """Identifies weights, precision, tokenizer and steering."""
        return digest(self.unsteered, self.steering.fingerprint) if self.steering else self.unsteered

    @property
    def unsteered(self) -> str:
        """The fingerprint of the same weights without a steering."""
        return self.backbone.fingerprint

    @property
    def weights_id(self) -> str:
        """Identifies the backbone's own weights, config and tokenizer, in whatever precision they run."""
        return self.backbone.weights_id

    @property
    def old_fingerprint(self) -> str:
        """What `unsteered` was of the backbone's own weights, for saved models of format 3 and before."""
        return self.backbone.sampled_fingerprint

    @property
    def max_tokens(self) -> int:
        """The longest prompt with its answer, in tokens."""
        return self.backbone.max_tokens

    @property
    def chat(self) -> ChatFormat | None:
        """How it writes conversations; None for a base model."""
        return self.backbone.chat

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Texts that are tokens with a meaning of their own."""
        return self.backbone.control_tokens

    @property
    def remark(self) -> str | None:
        """That the model is scored slowly, if it is, and why."""
        if self.obstacle is None:
            return None
        return f"'{self.name}' is scored one request at a time, which is many times slower: {self.obstacle}"

    def count_tokens(self, text: str) -> int:
        """Return how many tokens `text` has as a segment of its own."""
        return len(self.backbone.tokenise(text))

    def forward_tokens(self, requests: Sequence[ScoreRequest]) -> int:
        """Return how many tokens have to be run to score `requests`, without running any."""
        encoded = {(prompt, tuple(answers)) for prompt, answers in map(self._encoder.score, requests)}
        if self.obstacle is not None:
            return _plain_tokens(encoded)
        return len(self._tree([p for p, _ in encoded], [a for _, a in encoded]).tokens)

    def with_store(self, store: Store | None) -> Self:
        """Return the same model, with another store, if there is one."""
        other = copy(self)
        other._store = store
        other.__dict__["obstacle"] = self.obstacle
        return other

    def remembering(self) -> Self:
        """Return the same model without a store, which keeps what stands before questions; see `engine.remembered`."""
        other = self.with_store(None)
        other._memory = memory_of(self.backbone) if self.obstacle is None else None
        return other

    def steered(self, steering: Steering) -> Self:
        """Return the same model with changed activations, after those that it has; it shares the store.

        Raises:
            ModelError: The steering is another model's, or the architecture has none of its sites, or attention that
                cannot be weighed.
        """
        check(self.backbone, steering)
        if not self._is_of_it(steering):
            raise ModelError(
                f"A steering must be used on the model it was fitted on ({steering.model[:12]}); '{self.name}' is "
                f"another one ({self.unsteered[:12]}). Fit it on this model."
            )
        other = copy(self)
        if steering.acting:
            steering = replace(steering, edits=steering.acting)
            other.steering = self.steering.then(steering) if self.steering else steering
            other._encoder = self._encoder.weighing(other._weighed_spans())
            other.capabilities = self.capabilities - {Capability.GRADIENTS}
        return other

    def _weighed_spans(self) -> tuple[str, ...]:
        """Return the spans outside of which attention is weighed.

        Raises:
            ModelError: The architecture computes attention where it cannot be weighed.
        """
        spans = self.steering.spans if self.steering else ()
        if spans and self.obstacle is not None:
            raise ModelError(
                f"Attention of '{self.name}' ({self.backbone.config.model_type}) cannot be weighed: {self.obstacle}. "
                "That takes an architecture whose attention transformers lets others compute, as Llama, Gemma 3, Qwen, "
                "Mistral, GPT-2 and GPT-NeoX. Use a recipe without the steerer 'attention'."
            )
        return spans

    def _is_of_it(self, steering: Steering) -> bool:
        if steering.model in ("", self.unsteered):
            return True
        is_trained = self.unsteered != self.backbone.fingerprint
        return not is_trained and steering.model == self.old_fingerprint  # as it was saved before

    @contextmanager
    def active(self) -> Iterator[None]:
        """Hold the backbone, and let it compute as this model does; within a thread it can be nested."""
        with ExitStack() as stack:
            stack.enter_context(self.backbone.lock)
            if self.steering is not None:
                stack.enter_context(steered(self.backbone, [self.steering]))
            yield

    def _tree(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]) -> Tree:
        is_marked = self.steering is not None and any(e.last_only for e in self.steering.edits)
        return build_tree(prompts, continuations, [1] * len(prompts) if is_marked else None)

    def encode(self, prompt: Prompt) -> EncodedPrompt:
        """Turn a prompt into token ids with the spans of its answers."""
        return self._encoder.prompt(prompt)

    def place_of(self, prompt: Prompt, passage: str) -> tuple[int, int]:
        """Return the first token of a passage in a prompt, and the one after it."""
        return self._encoder.place_of(prompt, passage)

    def training_row(self, text: TrainingText) -> TrainingRow:
        """Turn a text to be learnt into token ids and the positions that are learnt."""
        return self._encoder.training_row(text)

    @cached_property
    def obstacle(self) -> str | None:
        """Why this architecture is scored in plain batches; None where packs agree with a plain pass (tried once)."""
        if known := self.backbone.why_not_packable():
            return known
        with self.backbone.lock:
            return self._trial()

    def _trial(self) -> str | None:
        """Compare packed scores with those of a plain pass."""
        ids = np.random.default_rng(0).integers(0, min(250, self.backbone.vocab_size), size=(4, 6)).tolist()
        prompts, answers = [ids[0], ids[0] + ids[1]], [[ids[2], ids[3]], [ids[3][:2], ids[2][:1]]]
        tree = build_tree(prompts, answers)
        packed = np.zeros(4)
        try:
            for slots, values in score_packed(self.backbone, tree, cut(tree, max_tokens=7, max_scored=4)):
                np.add.at(packed, slots, values)
        except (NotPackableError, TypeError, IndexError, RuntimeError) as error:
            return str(error) or type(error).__name__
        plain = [score_plain(self.backbone, p, a) for p, a in zip(prompts, answers, strict=True)]
        gap = float(np.abs(packed - np.concatenate(plain)).max())
        limit = _TRIAL_TOLERANCE.get(self.backbone.dtype, 1e-3)
        return None if gap <= limit else f"packed scores differ from a plain pass by {gap:.2g} nats"

    def score(
        self,
        requests: Sequence[ScoreRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[FloatArray]:
        """Return one log-probability in nats per continuation, for each request `[n_continuations]`.

        Packs depend on the requests alone, not on what is stored; a pack is committed when it is done. Equal requests
        are scored once.

        Raises:
            UserError: An empty text, or a prompt too long for the model.
        """
        encoded = [self._encoder.score(r) for r in requests]
        keys = [self._key("score", *e) for e in encoded]
        run: Any = self._packed if self.obstacle is None else self._plain
        if self._memory is not None:
            run = partial(self._after_beginnings, [self._encoder.beginning(r.prompt) for r in requests], keys, False)
        get, put = (self._store.get, self._store.put) if self._store else (None, None)
        unique, ledger = dict(zip(keys, encoded, strict=True)), ledger or Ledger()
        with self.active():
            return self._each_once(unique, keys, get, put, run, lambda _: 0, progress, ledger)

    def generate(
        self,
        requests: Sequence[GenerateRequest],
        *,
        progress: Callable[[int], None] | None = None,
        ledger: Ledger | None = None,
    ) -> list[Generation]:
        """Return an answer for each request.

        Greedy answers are, token by token, those of a plain forward pass for each token. Groups of prompts that are
        answered together depend on the requests alone; a group is committed when it is done.

        Raises:
            UserError: A prompt too long for the model, or an empty text among `allowed`.
        """
        encoded = [self._encoder.generation(r) for r in requests]
        keys = [self._key("generate", prompt, *vars(how).values()) for prompt, how in encoded]
        run: Any = self._generate_packed if self.obstacle is None else self._generate_plain
        if self._memory is not None:
            run = partial(self._after_beginnings, [self._encoder.beginning(r.prompt) for r in requests], keys, True)
        get, put = (self._store.get_texts, self._store.put_texts) if self._store else (None, None)

        def written(answer: Generation) -> int:
            return self.count_tokens(answer.text) + 1

        unique, ledger = dict(zip(keys, encoded, strict=True)), ledger or Ledger()
        with self.active():
            return self._each_once(unique, keys, get, put, run, written, progress, ledger)

    def _key(self, *request: object) -> str:
        backbone = self.backbone  # its own fingerprint too: trained weights keep theirs when read in another precision
        own = self.fingerprint, backbone.fingerprint
        return digest(*own, *request, ENGINE_VERSION, self._pack_tokens, backbone.device.type)

    def _each_once(
        self,
        unique: Mapping[str, Any],
        keys: Sequence[str],
        get: Callable[[Sequence[str]], dict[str, tuple[Any, float]]] | None,
        put: Callable[[Sequence[tuple[str, Any, float]]], None] | None,
        run: Callable[[Mapping[str, Any], Sequence[str]], tuple[int, Iterator[list[tuple[str, Any, float]]]]],
        written: Callable[[Any], int],
        progress: Callable[[int], None] | None,
        ledger: Ledger,
    ) -> list[Any]:
        """Return a result for each of `keys`: from the store, or else run and committed part by part.

        `run` returns the tokens of all requests beside the parts of those that are missing; `written` those that a
        result has more. What is stored counts too, so that an interrupted run counts what an undisturbed one does.
        """
        times = Counter(keys)  # equal requests are run once, and all count as finished
        tell = progress or (lambda n: None)
        results: dict[str, tuple[Any, float]] = {}
        n_counted, n_written = 0, 0

        def take(rows: Sequence[tuple[str, Any, float]]) -> None:
            nonlocal n_counted, n_written
            results.update((key, (value, seconds)) for key, value, seconds in rows)
            n_written += sum(written(value) for _, value, _ in rows)
            so_far = n_tokens * len(results) // max(1, len(unique)) + n_written
            ledger.add(Cost(tokens=so_far - n_counted))
            n_counted = so_far
            tell(sum(times[key] for key, *_ in rows))

        known = get(list(unique)) if get else {}
        n_tokens, parts = run(unique, [key for key in unique if key not in known])
        ledger.add(Cost(reused=len(known)))
        take([(key, *row) for key, row in known.items()])
        for rows in parts:
            fresh = [row for row in rows if row[0] not in results]
            if put:
                put(fresh)
            ledger.add(Cost(scored=len(fresh)))
            take(fresh)
        ledger.add(Cost(seconds=sum(results[key][1] for key in unique)))
        return [results[key][0] for key in keys]

    def _generate_packed(
        self, requests: Mapping[str, Asked], missing: Sequence[str]
    ) -> tuple[int, Iterator[list[tuple[str, Generation, float]]]]:
        """Return the tokens of all prompts, and the answers of each group that `missing` needs as it is run."""
        tree = self._tree_of(requests, True)
        return len(tree.tokens), self._run_groups(tree, requests, missing) if missing else iter(())

    def _run_groups(
        self, tree: Tree, requests: Mapping[str, Asked], missing: Sequence[str], begun: Beginning | None = None
    ) -> Iterator[list[tuple[str, Generation, float]]]:
        keys = list(requests)
        prompts, decodings = [p for p, _ in requests.values()], [how for _, how in requests.values()]
        packs = cut(tree, max_tokens=self._pack_tokens, max_scored=self._pack_scored)
        parts = groups_of(tree, packs, max_rows=_GROUP_ROWS, max_answers=_GROUP_ANSWERS)
        wanted = set(missing)
        todo = needed_groups(tree, packs, parts, np.array([i for i, key in enumerate(keys) if key in wanted]))
        began = time.perf_counter()
        for answers in generate_packed(self.backbone, tree, packs, parts, todo, prompts, decodings, begun):
            share = (time.perf_counter() - began) / len(answers)
            began = time.perf_counter()
            yield [(keys[a.index], a.result, share) for a in answers if a.result is not None]

    def _generate_plain(
        self, requests: Mapping[str, Asked], missing: Sequence[str]
    ) -> tuple[int, Iterator[list[tuple[str, Generation, float]]]]:
        """Return the tokens of all prompts, and the missing answers one by one."""
        n_tokens = sum(len(prompt) for prompt, _ in requests.values())
        return n_tokens, _one_by_one(lambda key: generate_plain(self.backbone, *requests[key]), missing)

    def _packed(self, requests: Mapping[str, Encoded], missing: Sequence[str]) -> tuple[int, Iterator[list[Row]]]:
        """Return the tokens of all requests, and after each pack that `missing` needs the requests it completed."""
        tree = self._tree_of(requests, False)
        return len(tree.tokens), self._run_packs(tree, requests, missing) if missing else iter(())

    def _run_packs(
        self, tree: Tree, requests: Mapping[str, Encoded], missing: Sequence[str], begun: Beginning | None = None
    ) -> Iterator[list[Row]]:
        wanted = set(missing)
        owned = [key in wanted for key, (_, answers) in requests.items() for _ in answers]  # [slots]
        packs = cut(tree, max_tokens=self._pack_tokens, max_scored=self._pack_scored)
        todo = [packs[number] for number in packs_for(tree, packs, np.flatnonzero(owned))]
        yield from self._completed(tree, requests, score_packed(self.backbone, tree, todo, begun))

    def _completed(
        self, tree: Tree, requests: Mapping[str, Encoded], parts: Iterator[tuple[IntArray, FloatArray]]
    ) -> Iterator[list[Row]]:
        """Return after each part that is scored the requests that it completed."""
        keys = list(requests)
        owner = np.repeat(np.arange(len(keys)), [len(a) for _, a in requests.values()])  # [slots]
        first_slot = np.searchsorted(owner, np.arange(len(keys)))
        open_targets = np.bincount(owner[tree.slots], minlength=len(keys))
        sums = np.zeros(len(owner))
        began = time.perf_counter()
        for scored, values in parts:
            np.add.at(sums, scored, values)
            np.subtract.at(open_targets, owner[scored], 1)
            complete = [i for i in np.unique(owner[scored]) if not open_targets[i]]
            if complete:
                share = (time.perf_counter() - began) / len(complete)
                began = time.perf_counter()
                stops = [first_slot[i] + len(requests[keys[i]][1]) for i in complete]
                yield [(keys[i], sums[first_slot[i] : stop], share) for i, stop in zip(complete, stops, strict=True)]

    def _after_beginnings(
        self,
        lengths: Sequence[int],
        keys: Sequence[str],
        writes: bool,
        requests: Mapping[str, Any],
        missing: Sequence[str],
    ) -> tuple[int, Iterator[list[Any]]]:
        """Return the tokens that have to be run, and the results of requests that begin in the same way, in turn.

        Args:
            lengths: For each of `keys` how many tokens may be what others begin with too.
            keys: Of the requests, some of them several times.
            writes: Whether answers are written, or scored.
            requests: Encoded, by key.
            missing: All of them, as there is no store.
        """
        length = dict(zip(keys, lengths, strict=True))
        shared = groups([requests[key][0][: length[key]] for key in missing])
        n_tokens, parts, alone = 0, list[tuple[Tree, dict[str, Any], Beginning | None]](), list[str]()
        for ids, places in shared.items():
            begun, n_new = self._begun(ids, len(places))
            own = [missing[i] for i in places]
            if begun is None:
                alone += own
                continue
            after = {key: (requests[key][0][begun.n :], requests[key][1]) for key in own}
            tree = self._tree_of(after, writes)
            parts.append((replace(tree, depths=tree.depths + begun.n), {key: requests[key] for key in own}, begun))
            n_tokens += n_new + len(tree.tokens)
        if alone:
            own = {key: requests[key] for key in alone}
            parts.append((self._tree_of(own, writes), own, None))
            n_tokens += len(parts[-1][0].tokens)
        run: Any = self._run_groups if writes else self._run_packs
        kept = [part for part in parts if part[2]]
        if not writes and len(kept) > 1 and (joined := self._joined(requests, kept)):
            parts = [part for part in parts if not part[2]]
        else:
            joined = iter(())
        each = (rows for tree, own, begun in parts for rows in run(tree, own, list(own), begun))
        return n_tokens, chain(joined, each)

    def _joined(
        self, requests: Mapping[str, Encoded], parts: Sequence[tuple[Tree, Mapping[str, Any], Beginning | None]]
    ) -> Iterator[list[Row]] | None:
        """Return the results of requests after several beginnings, run in one pass; None where that is too much."""
        trees = [tree for tree, _, _ in parts]
        crowded = sum(len(np.unique(tree.positions)) for tree in trees) > self._pack_scored
        if crowded or sum(len(tree.tokens) for tree in trees) > self._pack_tokens:
            return None
        own = {key: requests[key] for _, some, _ in parts for key in some}
        tree = self._tree_of(own, False)
        begun = [(path_of(tree, own[next(iter(some))][0][: b.n]), b) for _, some, b in parts if b]
        if np.isin(tree.positions, np.concatenate([path for path, _ in begun])).any():
            return None
        return self._completed(tree, own, (score_joined(self.backbone, tree, begun) for _ in range(1)))

    def _begun(self, ids: tuple[int, ...], times: int) -> tuple[Beginning | None, int]:
        """Return what is kept of a beginning, if it is or should be, and how many tokens had to be run for that."""
        assert self._memory is not None
        key = self.fingerprint, ids
        if found := self._memory.get(key):
            return found, 0
        if not self._memory.is_worth(key, times):
            return None, 0
        found = begin(self.backbone, ids, max_tokens=self._pack_tokens)
        self._memory.put(key, found)
        return found, found.n

    def _tree_of(self, requests: Mapping[str, Any], writes: bool) -> Tree:
        prompts, rest = [p for p, _ in requests.values()], [a for _, a in requests.values()]
        return self._tree(prompts, [[(0,)]] * len(prompts) if writes else rest)

    def _plain(self, requests: Mapping[str, Encoded], missing: Sequence[str]) -> tuple[int, Iterator[list[Row]]]:
        """Return the tokens of all requests, and the missing scores one by one."""
        return _plain_tokens(requests.values()), _one_by_one(
            lambda key: score_plain(self.backbone, *requests[key]), missing
        )


def _plain_tokens(requests: Iterable[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> int:
    """Return the tokens of requests that share nothing: a sequence for each continuation."""
    return sum(len(a) * len(p) + sum(map(len, a)) - len(a) for p, a in requests)


def _one_by_one(run: Callable[[str], T], keys: Sequence[str]) -> Iterator[list[tuple[str, T, float]]]:
    for key in keys:
        began = time.perf_counter()
        value = run(key)
        yield [(key, value, time.perf_counter() - began)]
