"""Where the spread of a prompt's score comes from: the draw of demonstrations, their order, or the examples asked.

Source: analysis of variance with random effects, as in Searle, Casella and McCulloch (1992), Variance Components,
chapter 4, https://doi.org/10.1002/9780470316856. Differs: negative estimates are 0.
"""

from dataclasses import dataclass

from kshot.core.types import FloatArray


@dataclass(frozen=True)
class Spread:
    """Standard deviations, each with the others held fixed.

    Attributes:
        draw: Of the mean score from one draw of demonstrations to another.
        order: Of the mean score from one order of the same demonstrations to another.
        examples: Of the mean score from one sample of as many examples to another: the standard error that they leave.
        n: How many examples were asked.
    """

    draw: float
    order: float
    examples: float
    n: int


def components(values: FloatArray) -> Spread:
    """Split the spread of values `[n_draws, n_orders, n_examples]`, 2 or more of each.

    All prompts are asked the same examples; orders belong to their draw. With y(d,o,i) = mean + draw + order +
    example + draw x example + rest, means over i have the variances

        between orders:  order^2 + rest^2 / n
        between draws:   draw^2 + order^2 / n_orders + (draw x example^2 + rest^2 / n_orders) / n

    from which those of draw and order follow.
    """
    n_draws, n_orders, n = values.shape
    by_order, by_draw = values.mean(axis=2), values.mean(axis=1)  # [draws, orders], [draws, n]
    rest = values - by_order[:, :, None] - by_draw[:, None, :] + by_order.mean(axis=1)[:, None, None]
    rest_square = float((rest**2).sum() / (n_draws * (n_orders - 1) * (n - 1)))
    order = max(0.0, float(by_order.var(axis=1, ddof=1).mean()) - rest_square / n)
    both = by_draw - by_draw.mean(axis=1)[:, None] - by_draw.mean(axis=0) + by_draw.mean()
    both_square = float((both**2).sum() / ((n_draws - 1) * (n - 1)))
    draw = max(0.0, float(by_draw.mean(axis=1).var(ddof=1)) - order / n_orders - both_square / n)
    of_one = float(values.var(axis=2, ddof=1).mean())  # of the rows of one prompt
    return Spread(draw**0.5, order**0.5, (of_one / n) ** 0.5, n)
