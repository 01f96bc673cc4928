"""What a run would compute, printed in its place."""

from kshot.cli.output import print_json, stderr, stdout
from kshot.core.duration import in_words
from kshot.core.prices import in_usd
from kshot.verbs.adapt import about_data
from kshot.verbs.plan import plan
from kshot.verbs.prepare import Prepared


def print_plan(prepared: Prepared, *, as_json: bool) -> None:
    """Print what is to be said of the data, and what each recipe of a run would compute."""
    for text in about_data(prepared):
        stderr.print(f"note: {text}")
    rows = plan(prepared)
    if as_json:
        print_json({"plan": rows})
        return
    for row in rows:
        cost = f"{row['predictions']} predictions, {row['forward_tokens']} forward tokens"
        cost += f", {row['calls']} calls" if "calls" in row else ""
        cost += f", {row['training_steps']} steps of training" if row["training_steps"] else ""
        cost += f", about {in_words(max(1, 60 * row['minutes']))}" if "minutes" in row else ""
        cost += f", about {in_usd(row['usd'])}" if "usd" in row else ""
        cost += f" without {row['left_out']}" if "left_out" in row else ""
        stdout.print(f"{row['recipe']}: {cost if row['predictions'] else 'not applicable to this task and model'}")
    tokens, minutes, money = (sum(row.get(key, 0) for row in rows) for key in ("forward_tokens", "minutes", "usd"))
    cost = f", about {in_words(max(1, 60 * minutes))} here" if any("minutes" in row for row in rows) else ""
    cost += f", about {in_usd(money)}" if any("usd" in row for row in rows) else ""
    stdout.print(f"all: {tokens} forward tokens{cost} if no recipe is dropped")
