"""The race of a run: its recipes go through the stream slice by slice, and how they stand is told after each one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

from kshot.core.errors import ModelError, UserError
from kshot.core.prices import in_usd
from kshot.core.settings import ChooseBy, Prefer
from kshot.measures.comparison import reach_of_all_pairs
from kshot.measures.metrics import get_metric
from kshot.measures.samples import SUMMARY, metric_of, summarise
from kshot.measures.variance import Spread
from kshot.race.entrant import Entrant
from kshot.race.halving import dropped, slices
from kshot.race.measure import Measuring
from kshot.race.ranking import Evidence, compared_by, evidence, ranked
from kshot.race.rehearsal import rehearsed
from kshot.race.speed import tokens_per_second
from kshot.recipes.recipe import Recipe

DEPLOYED = tuple(f"deployed{unit}{end}" for unit in ("", "_bits") for end in ("", "_low", "_high"))
BEHIND = ("behind", "behind_error", "is_close")


@dataclass
class Race:
    """The recipes of a run over its stream.

    Args:
        measuring: What they are measured with.
        recipes: Each once.
        drop: Whether those that fall behind are dropped.
        by: What the choice compares.
        prefer: What it prefers among those that are nearly as good.
    """

    measuring: Measuring
    recipes: Sequence[Recipe]
    drop: bool = True
    by: ChooseBy = "metric"
    prefer: Prefer | None = None

    def __post_init__(self):
        in_turn = sorted(self.recipes, key=lambda recipe: recipe.combines_run)  # by what the others have said
        self.entrants = [self.measuring.enter(recipe) for recipe in in_turn]
        others = [e for e in self.entrants if e.is_racing and not e.recipe.combines_run]
        for entrant in self.entrants:
            if entrant.is_racing and entrant.recipe.combines_run:
                self.measuring.combine(entrant, others)
        self._summaries: dict[tuple[str, int], dict[str, Any]] = {}

    @property
    def n_end(self) -> int:
        """How many examples the adapted model will know."""
        return len(self.measuring.stream.examples)

    @property
    def _first_stop(self) -> int:
        """How many predictions the first slice has."""
        return slices(len(self.measuring.stream.positions))[0][1]

    def run(self, after_slice: "Callable[[Race], None]") -> None:
        """Take the recipes through the stream; `after_slice` is called after each one, while some are still racing."""
        measuring = self.measuring
        for group in self._in_turn():
            self._leave_out_what_cannot_be_fitted(group)
            for _, stop in slices(len(measuring.stream.positions)):
                for entrant in group:
                    self._keep_to_budget()
                    if entrant.is_racing:
                        measuring.advance(entrant, stop)
                        measuring.progress.standing(self.board(), measuring.left())
                self._drop(group, stop)
                after_slice(self)
            self._leave_out_who_was_stopped_early()
        self._keep_to_budget()
        for entrant in self.entrants:  # those that combine others come last, when these are as they are handed over
            if entrant.recipe.combines_run:
                self._combine_without_lost(entrant)
            if entrant.is_racing:
                measuring.finish(entrant)
                measuring.look_again(entrant)
        measuring.progress.standing(self.board(), measuring.left())

    def _combine_without_lost(self, entrant: Entrant) -> None:
        """Let one that combines others predict anew where some of these were lost, which asks nothing.

        What is measured of it is then of what can be handed over.
        """
        n, others = len(entrant.rows), [e for e in self.entrants if not e.recipe.combines_run]
        if entrant not in self.eligible() or not any(e.is_lost and e.rows for e in others):
            return
        entrant.predictions, entrant.rows = [], []
        self._summaries.pop((entrant.recipe.name, n), None)
        self.measuring.combine(entrant, others)
        for _, stop in slices(len(self.measuring.stream.positions)):
            if stop <= n and not entrant.is_lost:
                self.measuring.advance(entrant, stop)

    def _in_turn(self) -> list[list[Entrant]]:
        """Return who goes through the stream together: with a budget those that train come after the others.

        They may take most of it, and would leave too little to tell the others apart.
        """
        combining = [e for e in self.entrants if e.recipe.combines_run]
        training = [e for e in self.entrants if e.recipe.trains and e.is_racing and e not in combining]
        others = [e for e in self.entrants if e not in (*training, *combining)]
        groups = [others, training, combining] if self._has_budget and training else [self.entrants]
        return [group for group in groups if group]

    @property
    def _has_budget(self) -> bool:
        """Whether there is one of time or tokens."""
        budget = self.measuring.ledger.budget
        return min(budget.seconds, budget.tokens) < inf

    def _drop(self, group: Sequence[Entrant], stop: int) -> None:
        """Take those of a group out of the race that are clearly behind after so many predictions."""
        measuring = self.measuring
        racing = [e for e in self.entrants if e.is_racing and not e.recipe.combines_run]  # these cost nothing
        racing = [e for e in racing if len(e.rows) >= stop]
        if not self.drop or stop == len(measuring.stream.positions) or len(racing) < 2 or measuring.ledger.is_spent:
            return
        out = dropped(
            {e.recipe.name: [r["bits"] for r in e.rows[:stop]] for e in racing},
            measuring.stream.positions[:stop],
            self.n_end,
            free={e.recipe.name for e in racing if not e.tokens or e not in group},
        )
        for entrant in racing:
            if entrant.recipe.name in out:
                entrant.stop("dropped", out[entrant.recipe.name])
        measuring.progress.standing(self.board(), measuring.left())

    def _leave_out_who_was_stopped_early(self) -> None:
        """Choose by all that others have predicted, where the budget let someone have less than half of that."""
        most = max((len(e.rows) for e in self.entrants if e.is_racing and not e.recipe.combines_run), default=0)
        for entrant in self.entrants:
            if entrant.status == "stopped" and 2 * len(entrant.rows) < most:
                entrant.stop("out-of-budget", entrant.reason)

    def _leave_out_what_cannot_be_fitted(self, group: Sequence[Entrant]) -> None:
        """Spend nothing on recipes that train whose first slice and last fit are more than what is left."""
        training = [e for e in group if e.is_racing and e.recipe.trains]
        if not (training and self._has_budget):
            return
        seconds, limit = self.measuring.ledger.left
        if seconds < inf:
            model, examples = self.measuring.model, self.measuring.stream.examples
            limit = seconds * tokens_per_second(model, examples, 0, seconds=1.0)
        for entrant in training:
            tokens, fit_tokens = self._first_cost(entrant.recipe)
            first = self._first_stop
            known = self.measuring.stream.positions[first - 1]
            last_fit = fit_tokens / len(entrant.recipe.variants) * (self.n_end - known) / max(1, known)
            if tokens + last_fit > limit:
                entrant.stop(
                    "out-of-budget",
                    f"its first {first} predictions and its last fit would take about {tokens + last_fit:,.0f} tokens",
                )

    def _keep_to_budget(self) -> None:
        """Keep what the last fit of any recipe may take; those whose own would take more than is left are out."""
        if self.measuring.ledger.is_spent:
            return  # what was kept is for the one that will be chosen
        ledger = self.measuring.ledger
        left, kept, kept_money = ledger.left, (0.0, 0.0), 0.0
        for entrant in self.entrants:
            if entrant.is_racing:
                fit, money = self.measuring.last_fit(entrant), self.measuring.last_fit_money(entrant)
                if any(needed > max(0.0, there) for needed, there in zip(fit, left, strict=True)):
                    entrant.stop("out-of-budget", "to learn all examples at the end would take more than is left")
                elif money > ledger.budget.money:  # not what is left: a run that is done comes to the same end again
                    entrant.stop("out-of-budget", f"to learn all examples at the end would cost {in_usd(money)}")
                else:
                    kept, kept_money = (max(kept[0], fit[0]), max(kept[1], fit[1])), max(kept_money, money)
        ledger.reserve, ledger.reserved_money = kept, kept_money

    def eligible(self) -> list[Entrant]:
        """Return those that can be chosen."""
        return [e for e in self.entrants if e.rows and e.status in ("racing", "done", "stopped")]

    def board(self) -> list[dict[str, Any]]:
        """Return the rows of the leaderboard, the one to choose first, those out of the choice last.

        The choice is by the rows that all of those in it have. `behind` says how far the others in it are expected to
        be behind the first when deployed, in the unit of the choice, `behind_error` its standard error, and `is_close`
        whether that leaves open which of the two is better, for all comparisons together.
        """
        costs = self._costs()
        expected, known = self.expected(), self._evidence(self.compares)

        def error(name: str, other: str) -> float:
            return known[name].paired(known[other], self.n_end, is_share=self.compares == "metric")

        first = ranked(expected, error, costs, prefer=self.prefer)
        by_name = {e.recipe.name: e for e in self.entrants}
        others = [e for e in self.entrants if e.recipe.name not in first]
        others.sort(key=lambda e: -len(e.rows))
        ends = self.when_deployed()
        for name in first[1:]:
            if ends[first[0]] and ends[name]:
                gap, of_gap = expected[first[0]] - expected[name], error(first[0], name)
                n_rows = min(known[first[0]].n_rows, known[name].n_rows)
                is_close = abs(gap) <= reach_of_all_pairs(len(first), n_rows) * of_gap
                ends[name] |= dict(zip(BEHIND, (gap, of_gap, is_close), strict=True))
        return [self._row(e, ends.get(e.recipe.name, {})) for e in (*(by_name[name] for name in first), *others)]

    def _costs(self) -> dict[str, dict[str, float]]:
        """Return what each recipe in the choice has cost, by the rows that all of these have, as prompts grow."""
        able, found = self.eligible(), {}
        n = min((len(e.rows) for e in able), default=0)
        for e in able:
            rows = e.rows[:n]
            found[e.recipe.name] = {
                "query_tokens": sum(r["prompt_tokens"] for r in rows) / n,
                "fit_tokens": sum(r["fit_tokens"] for r in rows),
                "bits_per_example": sum(r["bits"] for r in rows) / n,
            }
        return found

    def lead(self) -> dict[str, Any] | None:
        """Return how far the chosen recipe is ahead of the best of the others when deployed; None if that is not known.

        In the unit of the choice, its metric or bits saved, with the standard error of the paired difference.
        """
        compared = [row for row in self.board() if row["behind"] is not None]
        if not compared:
            return None
        next_one = min(compared, key=lambda row: row["behind"])
        return {
            "recipe": next_one["recipe"],
            "gap": next_one["behind"],
            "standard_error": next_one["behind_error"],
        }

    def spread(self) -> Spread | None:
        """Return how much the draw of demonstrations matters to the chosen recipe; None where nothing is drawn."""
        name = self.board()[0]["recipe"]
        (first,) = (e for e in self.entrants if e.recipe.name == name)
        return self.measuring.spread(first) if first.status == "done" else None

    @property
    def compares(self) -> ChooseBy:
        """What the choice compares: bits too where texts are written for some rows only."""
        return compared_by(self.measuring.task, self.by)

    @property
    def how(self) -> str:
        """By what the choice is made, in words."""
        task = self.measuring.task
        by = "bits" if self.compares == "bits" else task.metrics[0]
        near = f"; of those less than a standard error behind, the one with {self.prefer}" if self.prefer else ""
        return f"{by} as expected once all examples are known{near}"

    def expected(self) -> dict[str, float]:
        """Return what is expected of each recipe in the choice once it knows all examples: its metric, or -bits.

        A metric that is no mean over rows, as macro_f1, is moved as far as the mean of its rows is. A slope leads no
        further than the best there is, nor than the worst: who is all right by then is not behind who would be more.
        """
        return self._expected(self.compares)

    def _expected(self, by: ChooseBy) -> dict[str, float]:
        task, found = self.measuring.task, {}
        lowest = get_metric(task.metrics[0]).lowest
        for name, known in self._evidence(by).items():
            found[name] = known.expected(self.n_end)
            if by == "metric":
                rows = self._rows_of(name, known)
                found[name] += metric_of(task, rows) - sum(r["score"] for r in rows) / len(rows)
                found[name] = min(1.0, max(lowest, found[name]))
            else:
                found[name] = min(0.0, found[name])
        return found

    def when_deployed(self) -> dict[str, dict[str, Any]]:
        """Return what is expected of each recipe in the choice once it knows all examples, as in the leaderboard.

        Returns:
            Of each recipe: `deployed`, its metric, unless texts are written for some rows only, and `deployed_bits`,
            each with `_low` and `_high`; nothing with too few rows.
        """
        found: dict[str, dict[str, Any]] = {e.recipe.name: {} for e in self.eligible()}
        ways: tuple[tuple[str, ChooseBy], ...] = (("deployed", "metric"), ("deployed_bits", "bits"))
        least = get_metric(self.measuring.task.metrics[0]).lowest
        for key, by in ways:
            if by == "metric" and self.measuring.task.is_open:
                continue
            known = self._evidence(by)
            for name, value in self._expected(by).items():
                # as a share of the metric's range, which may begin below 0
                value = (value - least) / (1 - least) if by == "metric" else -value
                ends = known[name].interval(value, self.n_end, is_share=by == "metric")
                if ends:
                    three = (value, *(max(0.0, end) for end in ends))
                    if by == "metric":
                        three = tuple(least + (1 - least) * share for share in three)
                    found[name] |= dict(zip((key, f"{key}_low", f"{key}_high"), three, strict=True))
        return found

    def rows_of_chosen(self) -> list[dict[str, Any]]:
        """Return the sample rows that tell what is expected of the chosen recipe when deployed."""
        name = self.board()[0]["recipe"]
        return self._rows_of(name, self._evidence("metric")[name])

    def _rows_of(self, name: str, known: Evidence) -> list[dict[str, Any]]:
        """Return the sample rows that a recipe's evidence is of."""
        (entrant,) = (e for e in self.entrants if e.recipe.name == name)
        rows = entrant.along[: len(known.stream)]
        if not known.final:
            return rows
        seen = {r["position"] for r in entrant.again}
        return [*entrant.again, *(r for r in rows if r["position"] in known.final.keys() - seen)]

    def _evidence(self, by: ChooseBy) -> dict[str, Evidence]:
        """Return the evidence of each recipe in the choice, by rows of the stream that all of these have."""
        able, found = self.eligible(), {}
        n = min((len(e.rows) for e in able), default=0)
        for e in able:
            recipe = e.settled or e.recipe
            found[e.recipe.name] = evidence(
                self.measuring.task,
                e.along[:n],
                e.again,
                by=by,
                keeps_stream=not e.recipe.learns or (bool(e.final) and recipe.is_looked_at_whole),
                keeps_learning=recipe.keeps_learning,
            )
        return found

    def _row(self, entrant: Entrant, end: Mapping[str, float]) -> dict[str, Any]:
        found = self._summary(entrant) if entrant.rows else {**dict.fromkeys(SUMMARY), "n": 0}
        row = {"recipe": entrant.recipe.name, **dict.fromkeys((*DEPLOYED, *BEHIND)), **end}
        row |= {key: found[key] for key in SUMMARY}
        made = {"made": entrant.made} if entrant.made else {}
        return row | {"status": entrant.status, "reason": entrant.reason} | made

    def _summary(self, entrant: Entrant) -> dict[str, Any]:
        key = entrant.recipe.name, len(entrant.rows)
        if key not in self._summaries:
            self._summaries[key] = summarise(self.measuring.task, entrant.rows, seed=self.measuring.setup.seed)
        return self._summaries[key]

    def metrics(self) -> dict[str, dict[str, tuple[float, float, float]]]:
        """Return (value, low, high) of every metric of each recipe that has rows."""
        return {e.recipe.name: self._summary(e)["metrics"] for e in self.entrants if e.rows}

    def check_finished(self) -> None:
        """Raise an error unless there is a recipe to choose, and one that asks the model if some were to.

        Raises:
            ModelError: There is none because of a failure.
            UserError: There is none for other reasons.
        """
        able, asking = self.eligible(), [e for e in self.entrants if e.recipe.asks_model]
        failed = [e for e in self.entrants if e.status == "failed"]
        too_small = [e for e in asking if e.status == "out-of-budget"]
        none_asks = not any(e.rows and e.status != "failed" for e in asking)
        if able and not (none_asks and any(e.status in ("failed", "out-of-budget") for e in asking)):
            return
        why = ", ".join(
            f"{e.recipe.name} {'has' if e.status in ('failed', 'diverged') else 'is'} {e.status}"
            for e in self.entrants
            if e not in able
        )
        if failed:
            reasons = " ".join(f"{e.recipe.name}: {(e.reason or '').rstrip('.')}." for e in failed)
            raise ModelError(
                f"At least one recipe that asks the model must be finished to choose from: {why}. {reasons} What is "
                "done is kept; mend what failed and run the same command again, or give other --recipes."
            )
        if any(e.status == "out-of-budget" for e in self.entrants):
            raise UserError(
                f"--budget must be enough for the first {self._first_stop} predictions of at least one recipe: {why}. "
                f"{self._smallest(too_small)}What was scored is kept: the same --out goes on."
            )
        remedy = "a smaller lr, or " if any(e.status == "diverged" for e in self.entrants) else ""
        raise UserError(f"At least one recipe must be finished to choose from: {why}. Give {remedy}other --recipes.")

    def _smallest(self, entrants: Sequence[Entrant]) -> str:
        """Return the smallest budget that works, as a sentence with a blank after it; "" where nothing is known."""
        costs = {e.recipe.name: tokens for e in entrants if (tokens := self._first_cost(e.recipe)[0])}
        if not costs:
            return ""
        name, tokens = min(costs.items(), key=lambda pair: pair[1])
        least = f"The smallest that works is about {ceil(1.1 * tokens / 100) / 10:.1f}k-tokens"
        if self.measuring.model.model.is_remote:  # nothing is asked to measure how fast it is
            prices = self.measuring.ledger.prices
            money = f", or {in_usd(1.1 * prices.of(tokens, 0, 0))}" if prices else ""
            return f"{least}{money}, for {name}. "
        speed = tokens_per_second(self.measuring.model, self.measuring.stream.examples, 0, seconds=1.0)
        return f"{least}, here about {ceil(1.5 * tokens / speed) + 2}s, for {name}. "

    def _first_cost(self, recipe: Recipe) -> tuple[float, float]:
        """Return the tokens of a recipe's first slice, and those of them that learning takes."""
        measuring = self.measuring
        found = rehearsed(recipe, measuring.setup, [measuring.stream.queries()[: self._first_stop]]).predictions
        return sum(p.tokens + p.fit_tokens for p in found), sum(p.fit_tokens for p in found)
