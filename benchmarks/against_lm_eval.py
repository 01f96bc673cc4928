r"""Compare kshot's engine with lm-eval 0.4.13 (EleutherAI lm-evaluation-harness): the same numbers, and how fast.

    python benchmarks/against_lm_eval.py --data DIR [--queries 40] [--sample 8] [--json]

Both sides run in this process, on one transformers model and one tokenizer object (`demo`, Gemma-3-270M, fp32, CPU),
with the same number of threads. Demonstrations are drawn once with a seed and are the same for all queries. kshot is
timed over all queries in one call of `Engine.score` or `Engine.generate`, which is how it is meant to be used, and also
query by query, where nothing is shared across queries. lm-eval runs with batches of 8, on every n-th query, and its
time is given per query. Both are warmed up once; loading the model is not timed, tokenising is. Bars, on TREC:
`max_abs_diff_nats` at most 1e-3, `speedup` at least 50.

lm-eval wants python-dateutil below 3 (through typepy): installed into an environment that has 4, it takes it back.

**The same ids.** Both sides get the same text: a prompt in kshot's plain layout, and for scoring a continuation
" label\n\n". They tokenise it differently: kshot each segment on its own, after the first token (BOS); lm-eval
context + continuation as one string, of which it cuts off as many ids as the context alone has (`_encode_pair`), and it
moves spaces at the end of a context to the continuation, of which there are none here, as a prompt ends in "Label:" or
"Output:". `add_bos_token` is set to what kshot does, and no prompt comes near the 32,768 tokens where lm-eval would
truncate. Before anything is timed the ids of every request are compared; requests that differ are counted, shown and
left out of `max_abs_diff_nats`.

**Generation** is greedy on both sides, up to "\n\n" or 16 tokens. Texts are compared as they come, blanks included.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kshot.core.script import UsualWording
from kshot.core.seeding import generator
from kshot.core.types import Example, GenerateRequest, Prompt, ScoreRequest, Task
from kshot.engine.language_model import Engine
from kshot.models.white_box import load_white_box
from kshot.prompts.plain import Plain

try:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
except ImportError as error:
    sys.exit(f"lm-eval 0.4.13 must be installed beside kshot ({error}): pip install 'kshot[bench]'")

BATCH, ANSWER_TOKENS, SEED = 8, 16, 0
LAYOUT, WORDING = Plain(), UsualWording()


@dataclass(frozen=True)
class Comparison:
    """A task, and how many demonstrations its prompts show."""

    task: str
    shots: int


COMPARISONS = {
    "trec": Comparison("classification/trec", 16),
    "multiple_choice": Comparison("qa/arc_easy", 8),
    "generation": Comparison("functions/country_capital", 16),
}


def _prompt(task: Task, demonstrations: Sequence[Example], query: Example) -> Prompt:
    return LAYOUT.write(WORDING.compose(task, demonstrations, query.question))


def main() -> None:
    """Run the three comparisons and print their numbers."""
    parser = argparse.ArgumentParser(description="Compare kshot's engine with lm-eval 0.4.13.")
    parser.add_argument("--data", type=Path, required=True, help="folder of tasks, with classification/trec and so on")
    parser.add_argument("--queries", type=int, default=40, help="queries of each task that kshot answers")
    parser.add_argument("--sample", type=int, default=8, help="how many of them lm-eval answers")
    parser.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
    args = parser.parse_args()
    if not 1 <= args.sample <= args.queries:
        parser.error(f"--sample must be in 1..{args.queries}, the number of queries; got {args.sample}.")
    for one in COMPARISONS.values():
        if not (args.data / one.task).is_dir():
            parser.error(f"--data must name a folder with the task {one.task}; got {args.data}.")
    with redirect_stdout(sys.stderr):
        results = run(args.data, args.queries, args.sample)
    if args.json:
        print(json.dumps(results))
        return
    for name, numbers in results.items():
        print(name, *(f"  {key} {value:.4g}" for key, value in numbers.items()), sep="\n")


def run(data: Path, n_queries: int, n_sample: int) -> dict[str, dict[str, float]]:
    """Return the numbers of each comparison."""
    backbone = load_white_box("demo", device="cpu", dtype="float32")
    engine = Engine(backbone)
    assert engine.obstacle is None
    harness = HFLM(
        pretrained=backbone.model,
        tokenizer=backbone._tokenizer,
        batch_size=BATCH,
        add_bos_token=bool(backbone.first_ids),
    )
    packages = ", ".join(f"{p} {version(p)}" for p in ("kshot", "lm-eval", "transformers", "torch"))
    say(f"{packages}, {torch.get_num_threads()} threads")
    results = {}
    for name, one in COMPARISONS.items():
        task = Task.load(data / one.task)
        demonstrations, queries = draw(task, one.shots, n_queries)
        common = sorted({i * len(queries) // n_sample for i in range(n_sample)})  # evenly spread over the queries
        say(f"{name}: {task.name}, {one.shots} shots, {len(queries)} queries, lm-eval on {len(common)}")
        compare = compare_texts if task.is_open else compare_scores
        results[name] = compare(engine, harness, task, demonstrations, queries, common)
    return results


def draw(task: Task, shots: int, n_queries: int) -> tuple[list[Example], list[Example]]:
    """Return demonstrations of train and different queries of test, drawn at random once."""
    rng = generator(SEED, "against-lm-eval", task.name)
    demonstrations = [task.train[i] for i in rng.permutation(len(task.train))[:shots]]
    different = list({e.input: e for e in task.test}.values())  # kshot would answer equal queries once
    return demonstrations, [different[i] for i in rng.permutation(len(different))[:n_queries]]


def compare_scores(
    engine: Engine,
    harness: Any,
    task: Task,
    demonstrations: Sequence[Example],
    queries: Sequence[Example],
    common: Sequence[int],
) -> dict[str, float]:
    """Score all candidates of the queries on both sides, those of `common` by lm-eval."""
    requests = [
        ScoreRequest(
            _prompt(task, demonstrations, q),
            tuple(map(LAYOUT.answer, task.candidates(q))),
        )
        for q in queries
    ]
    same = [[same_ids(engine, harness, r.prompt, answer) for answer in r.continuations] for r in requests]
    flat = [agrees for row in same for agrees in row]
    say(f"  {sum(flat)} of {len(flat)} pairs of context and continuation have the same ids on both sides")

    def by_lm_eval(chosen: Sequence[ScoreRequest]) -> list[float]:
        pairs = [(r.prompt.text, answer) for r in chosen for answer in r.continuations]
        instances = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        return [value for value, _ in harness.loglikelihood(instances, disable_tqdm=True)]

    sample = [requests[i] for i in common]
    numbers, ours, theirs = timed_both(engine.score, by_lm_eval, requests, sample)
    agreeing = np.concatenate([same[i] for i in common])
    gaps = np.abs(np.concatenate([ours[i] for i in common]) - np.array(theirs))
    return {
        "max_abs_diff_nats": float(gaps[agreeing].max()),
        **numbers,
        "n_queries": len(requests),
        "n_sample": len(sample),
        "n_pairs_compared": int(agreeing.sum()),
        "share_same_ids": float(np.mean(flat)),
        "prompt_tokens": float(np.mean([len(engine.encode(r.prompt).ids) for r in requests])),
    }


def compare_texts(
    engine: Engine,
    harness: Any,
    task: Task,
    demonstrations: Sequence[Example],
    queries: Sequence[Example],
    common: Sequence[int],
) -> dict[str, float]:
    """Write greedy answers to the queries on both sides, to those of `common` by lm-eval."""
    stop = LAYOUT.terminator
    requests = [GenerateRequest(_prompt(task, demonstrations, q), ANSWER_TOKENS, (stop,)) for q in queries]
    same = [same_ids(engine, harness, r.prompt) for r in requests]
    say(f"  {sum(same)} of {len(same)} prompts have the same ids on both sides")

    def by_lm_eval(chosen: Sequence[GenerateRequest]) -> list[str]:
        how = {"until": [stop], "max_gen_toks": ANSWER_TOKENS, "do_sample": False}
        instances = [Instance("generate_until", {}, (r.prompt.text, how), i) for i, r in enumerate(chosen)]
        return harness.generate_until(instances, disable_tqdm=True)

    sample = [requests[i] for i in common]
    numbers, ours, theirs = timed_both(engine.generate, by_lm_eval, requests, sample)
    equal = [ours[i].text == text for i, text in zip(common, theirs, strict=True)]
    for i, text, is_equal in zip(common, theirs, equal, strict=True):
        if not is_equal:
            say(f"  different: {queries[i].input!r}: kshot {ours[i].text!r}, lm-eval {text!r}")
    return {
        "share_equal_texts": float(np.mean(equal)),
        **numbers,
        "n_queries": len(requests),
        "n_sample": len(sample),
        "share_same_ids": float(np.mean(same)),
        "prompt_tokens": float(np.mean([len(engine.encode(r.prompt).ids) for r in requests])),
    }


def timed_both(
    ours: Callable[[Any], list[Any]], theirs: Callable[[Any], list[Any]], requests: Sequence[Any], sample: Sequence[Any]
) -> tuple[dict[str, float], list[Any], list[Any]]:
    """Return seconds per query and speed-ups, kshot's results on `requests`, and lm-eval's on `sample`."""
    ours(requests[:2]), theirs(sample[:1])  # warm up
    together, our_results = timed(lambda: ours(requests))
    alone, _ = timed(lambda: [ours([request]) for request in sample])
    lm_eval, their_results = timed(lambda: theirs(sample))
    together, alone, lm_eval = together / len(requests), alone / len(sample), lm_eval / len(sample)
    numbers = {
        "kshot_seconds_per_query": together,
        "kshot_seconds_single_query": alone,
        "lm_eval_seconds_per_query": lm_eval,
        "speedup": lm_eval / together,
        "speedup_single_query": lm_eval / alone,
    }
    say("  " + ", ".join(f"{key} {value:.3g}" for key, value in numbers.items()))
    return numbers, our_results, their_results


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that `call` takes, and what it returns."""
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


def same_ids(engine: Engine, harness: Any, prompt: Any, answer: str = "") -> bool:
    """Return whether both sides run the same ids for a prompt, and for a continuation if there is one."""
    ours = (list(engine.encode(prompt).ids), list(engine.backbone.tokenise(answer)))
    theirs = harness._encode_pair(prompt.text, answer) if answer else (harness.tok_encode(prompt.text), [])
    if ours == theirs:
        return True
    say(
        f"  different ids: {prompt.text[-80:]!r} + {answer!r}: kshot {ours[0][-8:]} + {ours[1]}, "
        f"lm-eval {theirs[0][-8:]} + {theirs[1]}"
    )
    return False


def say(text: str) -> None:
    """Tell the user, on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
