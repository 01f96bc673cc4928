"""Finished runs logged elsewhere: each tracker is one function of a run's folder, and a line in the table."""

import re
from collections.abc import Callable
from pathlib import Path

from kshot.core.errors import UserError, did_you_mean, missing_extra
from kshot.reports.saved_record import read_results
from kshot.store.run_folder import RESULTS, SAMPLES

ARTIFACTS = (RESULTS, SAMPLES, "report.html")


def log_to_mlflow(folder: Path) -> None:
    """Log a run to MLflow, where its own settings say (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME).

    Parameters are what identifies the run; metrics stand once for each recipe, such as `accuracy/random`; the choice is
    in the tags and the note; results, sample rows and the report are artifacts.

    Args:
        folder: Of a finished run.
    """
    import mlflow

    results = read_results(folder)
    task, metric = results["task"], results["task"]["metrics"][0]
    with mlflow.start_run(run_name=f"{task['name']} {results['config']['model_name']}"):
        about = {"task_name": task["name"], "kind": task["kind"], "n_train": task["n_train"], **results["config"]}
        mlflow.log_params({key: value for key, value in about.items() if value is not None})
        mlflow.set_tags({"chosen": results["chosen"], "mlflow.note.content": results["choice"]["in_words"]})
        for row in results["leaderboard"]:
            name = re.sub(r"[^\w.:/ -]", "_", row["recipe"])  # what MLflow allows
            values = {metric: row["metric"], "n": row["n"]}
            values |= {key: row[key] for key in ("bits_per_example", "query_tokens", "query_ms", "fit_seconds")}
            mlflow.log_metrics({f"{key}/{name}": float(v) for key, v in values.items() if v is not None})
        for file in ARTIFACTS:
            mlflow.log_artifact(str(folder / file))


TRACKERS: dict[str, Callable[[Path], None]] = {"mlflow": log_to_mlflow}


def tracker(name: str) -> Callable[[Path], None]:
    """Return a tracker by its name, once its package is known to be there.

    Raises:
        UserError: An unknown name, or its package is not installed.
    """
    from importlib.util import find_spec

    if name not in TRACKERS:
        raise UserError(f"--track must name a tracker; got '{name}'.{did_you_mean(name, TRACKERS)}")
    if find_spec(name) is None:
        raise missing_extra(name, "track", f"--track {name}")
    return TRACKERS[name]
