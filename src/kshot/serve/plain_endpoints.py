"""`/predict`, `/about`, `/health`, `/metrics`, the document, and the page to try it."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from kshot.core.label_sets import answer_of, read
from kshot.core.types import Example, Prediction
from kshot.learners.fitted import Fitted
from kshot.serve.plain_wire import About, Health, PredictAnswer, Predicted, PredictRequest, Row, Shown
from kshot.serve.served import Served, as_json
from kshot.serve.trial_page import PAGE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


async def predict(request: Request, served: Served) -> Response:
    """Answer inputs with their labels' probabilities."""
    asked = await served.read(request, PredictRequest)
    rows = [row.model_dump(exclude_none=True) if isinstance(row, Row) else row for row in asked.inputs]
    said = await served.ask(request, rows)
    return as_json(PredictAnswer(model=served.name, predictions=[_predicted(served, p, asked.show) for p in said]))


def _predicted(served: Served, prediction: Prediction, show: bool) -> Predicted:
    is_unsure = served.adapted.is_unsure(prediction)
    if is_unsure:
        served.counts.abstained()
    return Predicted(
        answer=None if is_unsure else answer_of(served.adapted.task, prediction),
        probabilities=dict(zip(prediction.candidates, prediction.probs, strict=True)),
        unsure=is_unsure,
        cut_off=prediction.cut_off,
        disagreement=prediction.disagreement,
        stated=prediction.stated,
        prompt_tokens=prediction.prompt_tokens,
        contexts=_contexts(served, prediction) if show else None,
        found=[dict(found) for found in prediction.found] if show and prediction.found else None,
    )


def _contexts(served: Served, prediction: Prediction) -> list[list[Shown]]:
    known: dict[str, Example] = {e.id: e for f in _all(served.adapted.fitted) for e in f.pool}
    shown = prediction.contexts or ((prediction.demonstrations,) if prediction.demonstrations else ())
    is_set = served.adapted.task.is_multi_label
    return [[_shown(known[i], is_set) for i in ids if i in known] for ids in shown]


def _shown(example: Example, is_set: bool) -> Shown:
    return Shown(input=example.input, output=list(read(example.output)) if is_set else example.output)


def _all(fitted: Fitted) -> list[Fitted]:
    return [fitted, *(f for member in fitted.members for f in _all(member))]


async def about(request: Request, served: Served) -> Response:
    """Say what the model does."""
    adapted = served.adapted
    task, abstention = adapted.task, adapted.abstention
    below = abstention and (1.0 if abstention.threshold is None else abstention.threshold)
    return as_json(
        About(
            model=served.name,
            kind=task.kind,
            labels=list(task.labels),
            instruction=task.instruction,
            recipe=adapted.recipe.name,
            abstains_below=below,
            says_from=adapted.fitted.calibration.threshold if task.is_multi_label else None,
        )
    )


async def health(request: Request, served: Served) -> Response:
    """Say that it answers."""
    return as_json(Health(model=served.name, waiting=served.batcher.waiting))


async def metrics(request: Request, served: Served) -> Response:
    """Return the counts in Prometheus' format."""
    return Response(served.counts.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def page(request: Request, served: Served) -> Response:
    """Return the page: it has nothing of the model, and asks for that as everybody does."""
    return HTMLResponse(PAGE, headers={"content-security-policy": _POLICY, "x-content-type-options": "nosniff"})
