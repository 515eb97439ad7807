"""Linear models on fixed features, for many L2 strengths from one decomposition.

The objective is always `mean loss over examples + ½·strength·‖W‖²`; the intercept is
not penalized. In the terms of scikit-learn, with n examples:

  Ridge, RidgeClassifier        alpha = n · strength   (the loss here is ½‖xW + b − y‖²)
  LogisticRegression, K > 2     C = 1 / (n · strength)
  LogisticRegression, K = 2     C = 2 / (n · strength); its single column of weights
                                is the difference of the two columns here
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from jaxtl.core.types import PyTree

_Model = tuple[jax.Array, jax.Array]  # coefficients (r, K), intercept (K,)


class Spectrum(NamedTuple):
    """Centered features in their principal axes: x − mean = scores · axesᵀ.

    Attributes:
      mean: (d,).
      axes: (d, r), orthonormal columns; r is the rank, at most min(n − 1, d).
      scores: (n, r).
      values: (r,), the variance along each axis (1/n), ascending.
    """

    mean: np.ndarray
    axes: np.ndarray
    scores: np.ndarray
    values: np.ndarray


class RegularizationPath(NamedTuple):
    """A linear model per strength s of the penalty: x · weights[s] + intercept[s].

    Attributes:
      strengths: (S,).
      weights: (S, d, K).
      intercept: (S, K).
    """

    strengths: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray

    def __call__(self, x: ArrayLike, index: int) -> np.ndarray:
        """Computes the outputs of a strength's model, (n, d) to (n, K) in float64."""
        return np.asarray(x, np.float64) @ self.weights[index] + self.intercept[index]


def decompose(x: ArrayLike) -> Spectrum:
    """Decomposes features by an eigendecomposition of the smaller Gram matrix.

    Args:
      x: (n, d). Axes whose variance is zero up to rounding are left out: with a penalty
        no solution has a component along them.
    """
    x = np.asarray(x, np.float64)
    mean = x.mean(0)
    centered = x - mean
    n, d = x.shape
    gram = centered.T @ centered if d <= n else centered @ centered.T
    values, vectors = np.linalg.eigh(gram / n)
    positive = values > max(n, d) * np.finfo(np.float64).eps * max(values.max(), 0.0)
    values, axes = values[positive], vectors[:, positive]
    if d > n:
        axes = centered.T @ axes / np.sqrt(n * values)
    return Spectrum(mean, axes, centered @ axes, values)


def standardizer(x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Computes (mean, standard deviation) per feature, (d,); 1 for a constant one.

    Args:
      x: (n, d). The deviation is divided by n.
    """
    x = np.asarray(x, np.float64)
    mean, scale = x.mean(0), x.std(0)
    varies = scale > 1e-12 * np.maximum(1.0, np.abs(mean))
    return mean, np.where(varies, scale, 1.0)


def unstandardized(
    path: RegularizationPath, mean: np.ndarray, scale: np.ndarray
) -> RegularizationPath:
    """Converts models of (x − mean) / scale to models of x."""
    weights = path.weights / scale[:, None]
    return path._replace(weights=weights, intercept=path.intercept - mean @ weights)


def ridge(spectrum: Spectrum, y: ArrayLike, strengths: ArrayLike) -> RegularizationPath:
    """Minimizes mean_i ½‖x_i W + b − y_i‖² + ½·strength·‖W‖², in closed form.

    W = V (Λ + strength)⁻¹ Zᵀ(y − ȳ)/n with axes V, scores Z and variances Λ.

    Args:
      spectrum: of the features.
      y: (n, K) targets.
      strengths: (S,), positive.

    References:
      Hoerl, Kennard, Ridge Regression, Technometrics 12 (1970).
    """
    y, strengths = np.asarray(y, np.float64), np.asarray(strengths, np.float64)
    covariance = _covariance(spectrum, y)
    weights = np.stack(
        [spectrum.axes @ _coefficients(spectrum, covariance, s) for s in strengths]
    )
    return RegularizationPath(strengths, weights, y.mean(0) - spectrum.mean @ weights)


def _covariance(spectrum: Spectrum, y: np.ndarray) -> np.ndarray:
    """Computes Zᵀ(y − ȳ)/n, (r, K)."""
    return spectrum.scores.T @ (y - y.mean(0)) / len(y)


def _coefficients(
    spectrum: Spectrum, covariance: np.ndarray, strength: float
) -> np.ndarray:
    """Computes ridge's coefficients of the scores, (Λ + strength)⁻¹ · covariance."""
    return covariance / (spectrum.values + strength)[:, None]


def leverages(spectrum: Spectrum, strength: float) -> np.ndarray:
    """Computes h_ii, (n,), the diagonal of H in ŷ = Hy (ridge with its intercept)."""
    n = len(spectrum.scores)
    terms = np.square(spectrum.scores) / (n * (spectrum.values + strength))
    return 1 / n + terms.sum(1)


def _fitted_values(spectrum: Spectrum, y: np.ndarray, strength: float) -> np.ndarray:
    """Computes ridge's ŷ on the training examples, (n, K)."""
    coefficients = _coefficients(spectrum, _covariance(spectrum, y), strength)
    return y.mean(0) + spectrum.scores @ coefficients


def leave_one_out(spectrum: Spectrum, y: ArrayLike, strength: float) -> np.ndarray:
    """Predicts each example by ridge on all other examples, without refitting, (n, K).

    y_i − (y_i − ŷ_i) / (1 − h_ii). Each of these models has the penalty n·strength of
    the sum of losses, and features centered and standardized on all examples.

    References:
      Golub, Heath, Wahba, Generalized Cross-Validation …, Technometrics 21 (1979).
    """
    y = np.asarray(y, np.float64)
    remainders = (1 - leverages(spectrum, strength))[:, None]
    return y - (y - _fitted_values(spectrum, y, strength)) / remainders


def gcv(spectrum: Spectrum, y: ArrayLike, strength: float) -> float:
    """Generalized cross-validation error: mean squared residual / (1 − tr H / n)².

    The mean is over examples and outputs. It is the leave-one-out error with all
    leverages replaced by their mean.

    References:
      Golub, Heath, Wahba, Technometrics 21 (1979), eq. 1.4.
    """
    y = np.asarray(y, np.float64)
    residual = y - _fitted_values(spectrum, y, strength)
    mean_leverage = leverages(spectrum, strength).mean()
    return float(np.square(residual).mean() / (1 - mean_leverage) ** 2)


def signs(labels: ArrayLike, classes: int) -> np.ndarray:
    """Targets of a ridge classifier, (n, K): 1 at the label, −1 elsewhere."""
    return 2.0 * np.eye(classes)[np.asarray(labels).astype(int)] - 1.0


class LogisticFit(NamedTuple):
    """Logistic models, and the convergence of the solver for each strength.

    Attributes:
      path: the models.
      steps: (S,) number of iterations.
      slopes: (S,) largest component of the gradient at the end, in the solver's units.
    """

    path: RegularizationPath
    steps: np.ndarray
    slopes: np.ndarray


def logistic(
    spectrum: Spectrum,
    labels: ArrayLike,
    classes: int,
    strengths: ArrayLike,
    *,
    tolerance: float = 1e-7,
    steps: int = 1000,
) -> LogisticFit:
    """Minimizes mean cross-entropy + ½·strength·‖W‖² by L-BFGS, in float64.

    One compiled program goes from the strongest penalty to the weakest, and starts each
    model from the previous one. Its variables are the coefficients of the scores, of
    which there are at most as many as examples, each in units of its curvature.

    Args:
      spectrum: of the features.
      labels: (n,) integers in [0, classes).
      classes: K; every class has its column, and columns and intercepts sum to 0.
      strengths: (S,), positive, in any order.
      tolerance: the solver stops where no component of the gradient, in these units, is
        larger. At strength 1e-5 weights were then within 4e-4 of the largest weight, at
        larger strengths closer.
      steps: maximum number of iterations per strength.

    References:
      Liu, Nocedal, On the Limited Memory BFGS Method, Math. Programming 45 (1989).
    """
    strengths = np.asarray(strengths, np.float64)
    order = np.argsort(-strengths, kind="stable")
    # Padded to the largest possible rank, features of one width share one program: the
    # number of units that are always 0 differs between models.
    (n, rank), d = spectrum.scores.shape, len(spectrum.mean)
    scores = np.pad(spectrum.scores, ((0, 0), (0, min(n, d) - rank)))
    with jax.enable_x64(True):
        results = fit_logistic_path(
            jnp.asarray(scores),
            jnp.asarray(np.asarray(labels).astype(np.int32)),
            jnp.asarray(strengths[order]),
            jnp.float64(tolerance),
            jnp.int32(steps),
            classes,
        )
        results = [np.asarray(value)[np.argsort(order)] for value in results]
    coefficients, intercept, iterations, slopes = results
    # Softmax ignores a constant over classes, and the penalty is smallest without it.
    coefficients = coefficients - coefficients.mean(2, keepdims=True)
    intercept = intercept - intercept.mean(1, keepdims=True)
    weights = spectrum.axes @ coefficients[:, :rank]
    intercept = intercept - spectrum.mean @ weights
    return LogisticFit(
        RegularizationPath(strengths, weights, intercept), iterations, slopes
    )


@functools.partial(jax.jit, static_argnums=5)
def fit_logistic_path(
    scores: jax.Array,
    labels: jax.Array,
    strengths: jax.Array,
    tolerance: jax.Array,
    steps: jax.Array,
    classes: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Fits logistic models of the scores, each started from the previous one.

    Args:
      scores: (n, r).
      labels: (n,).
      strengths: (S,), in the order of fitting.
      tolerance: of the gradient, ().
      steps: maximum number of iterations per strength, ().
      classes: K.

    Returns:
      Coefficients (S, r, K), intercepts (S, K), iterations (S,) and slopes (S,).
    """

    def fit(start: _Model, strength: jax.Array) -> tuple[_Model, tuple]:
        scale = _scales(scores, start, strength)

        def loss(u: _Model) -> jax.Array:
            coefficients, intercept = jax.tree.map(jnp.multiply, u, scale)
            logits = scores @ coefficients + intercept
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(nll) + 0.5 * strength * jnp.sum(jnp.square(coefficients))

        u = jax.tree.map(jnp.divide, start, scale)
        u, iterations, slope = _lbfgs(loss, u, tolerance, steps)
        model = jax.tree.map(jnp.multiply, u, scale)
        return model, (*model, iterations, slope)

    rank = scores.shape[1]
    zero = jnp.zeros((rank, classes), scores.dtype), jnp.zeros(classes, scores.dtype)
    return jax.lax.scan(fit, zero, strengths)[1]


def _scales(scores: jax.Array, model: _Model, strength: jax.Array) -> _Model:
    """Computes the Hessian's diagonal^(−½) at a model: (r, K) and (K,).

    In these units, features of uneven scale need a tenth of the iterations.
    """
    p = jax.nn.softmax(scores @ model[0] + model[1])
    spread = jnp.maximum(p * (1 - p), 1e-12)
    curvature = jnp.square(scores).T @ spread / len(scores)
    return jax.lax.rsqrt(curvature + strength), jax.lax.rsqrt(jnp.mean(spread, 0))


def _lbfgs(
    loss: Callable[[PyTree], jax.Array],
    start: PyTree,
    tolerance: jax.Array,
    steps: jax.Array,
) -> tuple[PyTree, jax.Array, jax.Array]:
    """Minimizes a smooth function from a start.

    Returns:
      The minimum, the number of iterations, and the gradient's largest component.
    """
    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def slope(state: Any) -> jax.Array:
        grad = optax.tree.get(state, "grad")
        return optax.tree.norm(grad, ord=jnp.inf)

    def unfinished(carry: tuple) -> jax.Array:
        _, state, iteration = carry
        return (iteration == 0) | ((iteration < steps) & (slope(state) > tolerance))

    def step(carry: tuple) -> tuple:
        u, state, iteration = carry
        value, grad = value_and_grad(u, state=state)
        change, state = solver.update(
            grad, state, u, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(u, change), state, iteration + 1

    u, state, iteration = jax.lax.while_loop(
        unfinished, step, (start, solver.init(start), jnp.int32(0))
    )
    return u, iteration, slope(state)
