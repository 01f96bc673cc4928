"""What the benchmark of the choice found: regret of each rule, cost and loss of the race, as numbers and as a page."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from choice_rules import (
    KINDS,
    RULES,
    Rows,
    as_said,
    at_places,
    calibrated_row,
    chosen,
    evidence_of,
    expected,
    expected_of,
    is_open,
    kind_of,
    mixture,
    places,
    race,
    right_ones,
    to_the_end,
    whole_cost,
)
from mixtures import Replayed, replayed
from rows import LEAST_TASKS, in_points, with_interval

from kshot.core.seeding import generator
from kshot.core.types import FloatArray
from kshot.measures.comparison import score_difference
from kshot.measures.curves import at_end
from kshot.race.ranking import SHRINK, SHRINK_LEARNING
from kshot.race.stream import spread

SPLITS = 20
SHRINKS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, np.inf)
NEEDED = ("dense", "random", "fine-tune:batch=8,lr=3e-4,steps=1", "icl+ft:k=7,lr=3e-4,steps=1")


def streams(rows: Sequence[Mapping[str, Any]], needed: Sequence[str] = NEEDED) -> dict[tuple[str, str, int], Rows]:
    """Return the rows of each (layer of lengths, task, seed), by recipe: only streams that have all that is needed."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in rows:
        found.setdefault((str(row["n"]), row["task"], row["seed"]), {})[row["recipe"]] = row
    return {key: some for key, some in found.items() if set(needed) <= some.keys()}


def calibrated_streams(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, int], Rows]:
    """Return the complete streams whose rows are all predicted, calibrated as in a run."""
    return {key: _calibrated(some) for key, some in streams(rows).items() if int(key[0]) <= 100}


def _calibrated(rows: Rows) -> Rows:
    return {name: calibrated_row(row) for name, row in rows.items()}


def oracle(rows: Rows) -> FloatArray:
    """Return the score of the best recipe in hindsight on halves of the test rows, picked on the other halves."""
    scores = [np.array(row["test"]["scores"], dtype=np.float64) for row in rows.values()]
    found = []
    for one, other in _halves(len(scores[0])):
        best = max(scores, key=lambda s: s[one].mean())
        found.append(best[other].mean())
    return np.array(found)


def regret(rows: Rows, scores: FloatArray) -> float:
    """Return by how many points a choice is behind the best recipe in hindsight, as `oracle` picks it."""
    mine = [scores[other].mean() for _, other in _halves(len(scores))]
    return 100 * float(np.mean(oracle(rows) - mine))


def _halves(n: int) -> list[tuple[Any, Any]]:
    rng = generator(0, "regret")
    orders = [rng.permutation(n) for _ in range(SPLITS)]
    return [pair for o in orders for pair in ((o[: n // 2], o[n // 2 :]), (o[n // 2 :], o[: n // 2]))]


def _by_task(found: Mapping[tuple[str, str, int], float]) -> dict[str, list[float]]:
    tasks: dict[str, list[float]] = {}
    for (_, task, _), value in found.items():
        tasks.setdefault(task, []).append(value)
    return tasks


def _rules(known: Mapping[tuple[str, str, int], Rows]) -> dict[str, Any]:
    found, whole = {}, sum(map(whole_cost, known.values()))
    for name, rule in RULES.items():
        outcomes = {key: rule(rows) for key, rows in known.items()}
        regrets = {key: regret(known[key], outcome.scores) for key, outcome in outcomes.items()}
        found[name] = {
            "regret": with_interval(_by_task(regrets)),
            "cost": sum(outcome.tokens for outcome in outcomes.values()) / whole,
            "chosen": {_title(key): outcome.name for key, outcome in outcomes.items()},
            "regrets": {_title(key): value for key, value in regrets.items()},
        }
    return found


def _title(key: tuple[str, str, int]) -> str:
    return f"{key[1]} (seed {key[2]})"


def _race(known: Mapping[tuple[str, str, int], Rows]) -> dict[str, Any]:
    spent, lost, losses, costs = 0.0, [], {}, {}
    for key, rows in known.items():
        raced = race(rows)
        spent += raced.tokens
        costs[_title(key)] = raced.tokens / whole_cost(rows)
        both = [chosen(rows, way, mix=False).scores.mean() for way in (to_the_end(rows), raced)]
        losses[key] = 100 * float(both[0] - both[1])
        test = {name: 100 * float(np.mean(row["test"]["scores"])) for name, row in rows.items()}
        best, second = sorted(test, key=lambda name: -test[name])[:2]
        if test[best] - test[second] >= 5:
            lost.append(best not in raced.racing)
    return {
        "cost": spent / sum(map(whole_cost, known.values())),
        "cost_of": costs,
        "loss": with_interval(_by_task(losses)),
        "clear_best_dropped": f"{sum(lost)} of {len(lost)}",
    }


def _mixed(known: Mapping[tuple[str, str, int], Rows]) -> dict[str, Any]:
    """Compare the race's `mix` with the recipe that is chosen where it is left out, and with the best in hindsight."""
    found, over = {}, defaultdict[str, dict[tuple[str, str, int], float]](dict)
    for key, rows in known.items():
        raced = race(rows)
        one, mixed = chosen(rows, raced, mix=False), mixture(rows, raced.parts)
        if mixed is None:
            continue
        right = right_ones(mixed)
        gap = score_difference(right.tolist(), one.scores.tolist())
        over["the chosen one"][key] = 100 * gap.mean
        over["the best in hindsight"][key] = -regret(rows, right)
        found[_title(key)] = {
            "members": [list(rows)[i] for i in mixed.members],
            "mix": float(right.mean()),
            "chosen": one.name,
            "points": [100 * gap.mean, 100 * gap.low, 100 * gap.high],
            "tokens": mixed.query_tokens,
        }
    return {
        "streams": found,
        "over": {what: with_interval(_by_task(gaps)) for what, gaps in over.items()},
        "of_all": {
            what: _of_all(known, again=again) for what, again in (("second looks", True), ("the stream", False))
        },
    }


def _of_all(known: Mapping[tuple[str, str, int], Rows], *, again: bool) -> list[float]:
    """Return the accuracy and the bits on test rows of the mixture of all recipes, fitted in one way or the other."""
    mixtures = [mixture(rows, to_the_end(rows).parts, again=again) for rows in known.values()]
    return [float(np.mean([way(one) for one in mixtures if one])) for way in (_accuracy, _bits)]


def _accuracy(mixed: Replayed) -> float:
    return mixed.accuracy("test")


def _bits(mixed: Replayed) -> float:
    return mixed.bits("test")


def _cascades(known: Mapping[tuple[str, str, int], Rows]) -> dict[str, Any]:
    """Put a cheap recipe before an expensive one, both picked by the stream: what is lost, and what is saved.

    The expensive one is the best of those that show demonstrations and do not train, the cheap one the best of those
    that need no demonstrations.
    """
    found = {}
    for key, rows in known.items():
        values = expected(rows)
        kinds = {name: kind_of(name) for name in rows}
        dear = max((n for n in rows if kinds[n] in ("drawn", "all-past", "retrieval")), key=values.__getitem__)
        cheap = max((n for n in rows if kinds[n] in ("classifier", "no examples")), key=values.__getitem__)
        whole = replayed([as_said(rows[name]) for name in (cheap, dear)], "cascade", again=True)
        gap = score_difference(right_ones(whole).tolist(), rows[dear]["test"]["scores"])
        found[_title(key)] = {
            "cheap": cheap,
            "dear": dear,
            "points": [100 * gap.mean, 100 * gap.low, 100 * gap.high],
            "tokens": whole.query_tokens / rows[dear]["query_tokens"][0],
        }
    return found


def _errors(known: Mapping[tuple[str, str, int], Rows]) -> dict[str, Any]:
    """Return by how much expected values lie above test scores, by kind of recipe, in points."""
    ways = {
        "mean over the stream": lambda row: float(np.mean(row["stream"]["scores"])),
        "kshot, without the second look": lambda row: expected_of(row, again=False),
        "kshot": expected_of,
    }
    found: dict[str, dict[str, list[float]]] = {kind: {way: [] for way in ways} for kind in KINDS}
    for rows in known.values():
        for name, row in rows.items():
            for way, value in ways.items():
                found[kind_of(name)][way].append(100 * (value(row) - float(np.mean(row["test"]["scores"]))))
    return {
        kind: {"n": len(some["kshot"]), **{way: float(np.mean(gaps)) for way, gaps in some.items()}}
        for kind, some in found.items()
        if some["kshot"]
    }


def _shrinks(known: Mapping[tuple[str, str, int], Rows]) -> dict[str, Any]:
    """Return how far curves lead from 40 other training rows, with slopes shrunk by so much: what the choice rests on.

    Of each kind of recipe (mean, root of the mean square) in points, for each of `SHRINKS`.
    """
    found: dict[str, list[list[float]]] = {}
    for rows in known.values():
        for name, row in rows.items():
            if row["rest"]:
                stream = evidence_of(row, again=False).stream
                ends = [at_end(stream, places(row), row["n"], min(s, 1e9) * len(stream)) for s in SHRINKS]
                rest = float(np.mean(row["rest"]["scores"]))
                found.setdefault(kind_of(name), []).append([100 * (end - rest) for end in ends])
    return {
        kind: [[float(np.mean(g)), float(np.sqrt(np.mean(np.square(g))))] for g in np.array(gaps).T]
        for kind, gaps in found.items()
        if kind != "no examples"
    }


def _spread(rows: Sequence[Mapping[str, Any]], n: int, limit: int = 100) -> dict[str, Any] | None:
    """Compare the first `limit` predictions with as many that are spread over `n` examples."""
    whole = streams([row for row in rows if row.get("positions") and len(row["positions"]) < row["n"]], NEEDED[:2])
    known = {key: some for key, some in whole.items() if key[0] == str(n) or abs(int(key[0]) - n) < n // 10}
    if not known:
        return None
    oracles = {key: _calibrated(some) for key, some in known.items()}  # the same for both
    ways = {"the first": lambda n_end: range(limit), "spread": lambda n_end: spread(n_end, limit)}
    found: dict[str, Any] = {}
    for way, at in ways.items():
        replayed = {key: _calibrated(at_places(some, at(int(key[0])))) for key, some in known.items()}
        outcomes = {key: RULES["kshot"](some) for key, some in replayed.items()}
        gaps = [
            100 * (expected_of(row) - float(np.mean(row["test"]["scores"])))
            for some in replayed.values()
            for row in some.values()
        ]
        found[way] = {
            "regret": with_interval(_by_task({k: regret(oracles[k], o.scores) for k, o in outcomes.items()})),
            "error": float(np.sqrt(np.mean(np.square(gaps)))),
            "bias": float(np.mean(gaps)),
            "tokens": float(np.mean([o.tokens for o in outcomes.values()])),
            "chosen": {_title(key): outcome.name for key, outcome in outcomes.items()},
        }
    return {"tasks": len(known), "ways": found}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the page tells of the streams that are complete."""
    known = calibrated_streams(rows)
    if not known:
        return {}
    closed = {key: some for key, some in known.items() if not is_open(some)}
    return {
        "streams": len(known),
        "tasks": len({task for _, task, _ in known}),
        "rules": _rules(known),
        "race": _race(known),
        "mix": _mixed(closed),
        "cascades": _cascades(closed),
        "errors": _errors(closed),
        "shrinks": _shrinks(closed),
        "spread": {str(n): found for n in (400, 1000) if (found := _spread(rows, n))},
    }


# The page


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)] + [""]


def page(result: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    found = result["summary"]
    lines = [
        "# How good is the choice?",
        "",
        "Made by `kshot bench choice --data DIR`: Gemma-3-270M, streams of 100 training examples, 16 shots, up to 200 "
        f"test rows, {result['done']} of {result['planned']} units of work done. The race and all rules are replayed "
        "on the recorded predictions by the code that `kshot adapt` runs.",
        "",
    ]
    if not found:
        return "\n".join([*lines, "No stream is complete yet.", ""])
    return "\n".join([*lines, *(line for part in PARTS for line in part(found))])


def _of_rules(found: Mapping[str, Any]) -> list[str]:
    over = f"{found['streams']} streams of {found['tasks']} tasks, each with the recipes that train"
    intervals = (
        "Intervals are over tasks (bootstrap, 95 %)."
        if found["tasks"] >= LEAST_TASKS
        else f"There are no intervals: {found['tasks']} tasks are too few."
    )
    lost, cost = found["race"]["loss"], found["race"]["cost"]
    return [
        f"## Regret: {over}",
        "",
        "The regret of a choice is how many points it lacks on test rows against the cross-fitted oracle: the best "
        "recipe, `mix` apart, is picked on one half of the test rows and compared on the other, over "
        f"{SPLITS} random halves and both ways round. It is negative where the oracle picks by luck, or a mixture is "
        f"better than every single recipe. {intervals} Cost is in tokens, relative to running all recipes to the end "
        "with their second looks. kshot may choose `mix`, which is in every race and costs no tokens in it; the other "
        "rules choose among single recipes.",
        "",
        *_table(
            ("rule", "regret, points", "cost"),
            [(name, in_points(row["regret"]), f"{row['cost']:.2f}") for name, row in found["rules"].items()],
        ),
        "Recipes that train have one fold, the 80/20 split: the others would have to be trained anew. In open tasks, "
        "whose texts are written for test rows alone, all rules go by bits, and `mix` is left out.",
        "",
        f"The race costs {cost:.2f} of running all to the end and loses {in_points(lost)} points by it. Of recipes "
        f"that are best on the test rows by 5 points or more, {found['race']['clear_best_dropped']} were dropped.",
        "",
    ]


def _of_streams(found: Mapping[str, Any]) -> list[str]:
    shown = ("kshot", "mean over the stream", "80/20 split", "5-fold")
    rules, costs = found["rules"], found["race"]["cost_of"]
    rows = [
        (stream, rules["kshot"]["chosen"][stream], f"{costs[stream]:.2f}")
        + tuple(f"{rules[rule]['regrets'][stream]:+.1f}" for rule in shown)
        for stream in rules["kshot"]["chosen"]
    ]
    return ["## Stream by stream", "", *_table(("stream", "chosen", "cost", *shown), rows)]


def _of_mixed(found: Mapping[str, Any]) -> list[str]:
    """Tell what `mix` gives."""
    streams, over = found["mix"]["streams"], found["mix"]["over"]
    rows = [
        (stream, f"{100 * row['mix']:.1f}", row["chosen"], in_points(row["points"]), f"{row['tokens']:.0f}")
        for stream, row in streams.items()
    ]
    below = sum(row["points"][2] < 0 for row in streams.values())
    return [
        "## mix",
        "",
        "`mix` of the race, whether it is chosen or not, beside the recipe that is chosen where there is no `mix`. "
        + "It gains "
        + " and ".join(f"{in_points(three)} points over {what}" for what, three in over.items())
        + f" (means over tasks). It is clearly below the chosen one on {below} of {len(streams)} streams. The aim is 2 "
        "points above the chosen one, and never clearly below it. Intervals of a stream are over its test rows (95 %).",
        "",
        "The mixture of all recipes, none of which is dropped, on the test rows of these streams: "
        + "; ".join(
            f"with weights fitted on {way} {accuracy:.3f} right and {bits:.3f} bits"
            for way, (accuracy, bits) in found["mix"]["of_all"].items()
        )
        + ".",
        "",
        *_table(("stream", "mix, %", "the chosen one", "mix minus it, points", "prompt tokens"), rows),
    ]


def _of_cascades(found: Mapping[str, Any]) -> list[str]:
    """Tell what a cascade loses and saves."""
    streams = found["cascades"]
    rows = [
        (stream, row["cheap"], row["dear"], in_points(row["points"]), f"{row['tokens']:.2f}")
        for stream, row in streams.items()
    ]
    kept = sum(row["tokens"] <= 0.5 and row["points"][0] >= 0 for row in streams.values())
    near = sum(row["tokens"] <= 0.5 and row["points"][2] >= 0 for row in streams.values())
    return [
        "## cascade",
        "",
        "The best recipe without demonstrations answers, and the best one that shows demonstrations and does not train "
        "is asked where the first is unsure (`cascade(CHEAP, EXPENSIVE)`, its default). Both are picked by the stream. "
        "The aim is the quality of the expensive one for half of its prompt tokens on half of the tasks: at half of "
        f"the tokens or less {kept} of {len(streams)} streams are at least as good, and {near} not clearly worse.",
        "",
        *_table(("stream", "cheap", "expensive", "points against the expensive one", "its tokens"), rows),
    ]


def _of_errors(found: Mapping[str, Any]) -> list[str]:
    errors, shrinks = found["errors"], found["shrinks"]
    ways = [way for way in next(iter(errors.values())) if way != "n"]
    rows = [(kind, str(row["n"]), *(f"{row[way]:+.1f}" for way in ways)) for kind, row in errors.items()]
    slopes = [(kind, *(f"{bias:+.1f} / {root:.1f}" for bias, root in row)) for kind, row in shrinks.items()]
    believed = ["all" if s == 0 else "none" if s == np.inf else f"{100 / (1 + s):.0f} %" for s in SHRINKS]
    return [
        "## What is expected, and what comes",
        "",
        "What is expected of a recipe when it is deployed, minus its score on test rows, in points, means over recipes "
        "and streams:",
        "",
        *_table(("recipe", "n", *ways), rows),
        "How much of a slope is believed was chosen on 40 training rows beyond each stream, not on test rows. What the "
        "stream says of its end minus the score on these rows: mean / root of the mean square, in points, by how much "
        f"of the slope is believed. kshot believes {100 / (1 + SHRINK_LEARNING):.0f} % where a recipe keeps learning, "
        f"and {100 / (1 + SHRINK):.0f} % elsewhere.",
        "",
        *_table(("recipe", *believed), slopes),
    ]


def _of_spread(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for n, some in found["spread"].items():
        rows = [
            (way, in_points(row["regret"]), f"{row['bias']:+.1f} / {row['error']:.1f}", f"{row['tokens'] / 1000:.0f}k")
            for way, row in some["ways"].items()
        ]
        lines += [
            f"## {n} examples, 100 predictions: {some['tasks']} streams",
            "",
            "The first 100 examples are predicted and curves lead on to the end, or 100 that are spread over all of "
            "them (`--limit 100`). The same recording, without recipes that train. Expected minus test: mean / root of "
            "the mean square over recipes.",
            "",
            *_table(("predicted", "regret, points", "expected minus test", "tokens"), rows),
        ]
    return lines


PARTS = (_of_rules, _of_streams, _of_mixed, _of_cascades, _of_errors, _of_spread)
