"""Linear models on fixed features, for many strengths of L2 from one decomposition.

Everywhere the objective is `mean loss over examples + ½·strength·‖W‖²`; the intercept
is not penalised. In scikit-learn's terms, with n examples:

  Ridge, RidgeClassifier        alpha = n · strength   (the loss here is ½‖xW + b − y‖²)
  LogisticRegression, K > 2     C = 1 / (n · strength)
  LogisticRegression, K = 2     C = 2 / (n · strength), and its one column of weights
                                is the difference of the two here
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Spectrum(NamedTuple):
    """Centred features in their principal axes: x − mean = scores · axesᵀ.

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


class Path(NamedTuple):
    """One linear model per strength: x · weights[s] + intercept[s].

    Attributes:
      strengths: (S,).
      weights: (S, d, K).
      intercept: (S, K).
    """

    strengths: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray

    def __call__(self, x, index: int) -> np.ndarray:
        """Returns the (n, K) outputs of one strength's model, in float64."""
        return np.asarray(x, np.float64) @ self.weights[index] + self.intercept[index]


def spectrum(x) -> Spectrum:
    """Decomposes features by one eigendecomposition, of the smaller Gram matrix.

    Args:
      x: (n, d). Axes whose variance is zero up to rounding are left out: with a penalty
        no solution has a part along them.
    """
    x = np.asarray(x, np.float64)
    mean = x.mean(0)
    centred = x - mean
    n, d = x.shape
    gram = centred.T @ centred if d <= n else centred @ centred.T
    values, vectors = np.linalg.eigh(gram / n)
    kept = values > max(n, d) * np.finfo(np.float64).eps * max(values.max(), 0.0)
    values, axes = values[kept], vectors[:, kept]
    if d > n:
        axes = centred.T @ axes / np.sqrt(n * values)
    return Spectrum(mean, axes, centred @ axes, values)


def standardizer(x) -> tuple[np.ndarray, np.ndarray]:
    """Returns (mean, standard deviation) per feature; 1 for one that never changes.

    Args:
      x: (n, d). The deviation has n in the denominator.
    """
    x = np.asarray(x, np.float64)
    mean, scale = x.mean(0), x.std(0)
    varies = scale > 1e-12 * np.maximum(1.0, np.abs(mean))
    return mean, np.where(varies, scale, 1.0)


def unstandardized(path: Path, mean: np.ndarray, scale: np.ndarray) -> Path:
    """Returns models of (x − mean) / scale as models of x."""
    weights = path.weights / scale[:, None]
    return path._replace(weights=weights, intercept=path.intercept - mean @ weights)


def ridge(parts: Spectrum, y, strengths) -> Path:
    """Minimises mean_i ½‖x_i W + b − y_i‖² + ½·strength·‖W‖², in closed form.

    W = V (Λ + strength)⁻¹ Zᵀ(y − ȳ)/n with axes V, scores Z and variances Λ.

    Args:
      parts: of the features.
      y: (n, K) targets.
      strengths: (S,), positive.

    References:
      Hoerl, Kennard, Ridge Regression, Technometrics 12 (1970).
    """
    y, strengths = np.asarray(y, np.float64), np.asarray(strengths, np.float64)
    along = parts.scores.T @ (y - y.mean(0)) / len(y)
    weights = np.stack([parts.axes @ _shrunk(parts, along, s) for s in strengths])
    return Path(strengths, weights, y.mean(0) - parts.mean @ weights)


def _shrunk(parts: Spectrum, along: np.ndarray, strength: float) -> np.ndarray:
    return along / (parts.values + strength)[:, None]


def leverages(parts: Spectrum, strength: float) -> np.ndarray:
    """Returns (n,) h_ii, the diagonal of H in ŷ = Hy (ridge with its intercept)."""
    n = len(parts.scores)
    shares = np.square(parts.scores) / (n * (parts.values + strength))
    return 1 / n + shares.sum(1)


def _fitted(parts: Spectrum, y: np.ndarray, strength: float) -> np.ndarray:
    along = parts.scores.T @ (y - y.mean(0)) / len(y)
    return y.mean(0) + parts.scores @ _shrunk(parts, along, strength)


def leave_one_out(parts: Spectrum, y, strength: float) -> np.ndarray:
    """Returns (n, K): what ridge without example i predicts for it, without refitting.

    y_i − (y_i − ŷ_i) / (1 − h_ii). Each model left out keeps the sum's penalty,
    n·strength, and the scale and centre that features were standardised by.

    References:
      Golub, Heath, Wahba, Generalized Cross-Validation …, Technometrics 21 (1979).
    """
    y = np.asarray(y, np.float64)
    rest = (1 - leverages(parts, strength))[:, None]
    return y - (y - _fitted(parts, y, strength)) / rest


def gcv(parts: Spectrum, y, strength: float) -> float:
    """Generalised cross-validation: mean squared residual / (1 − tr H / n)².

    The mean over examples and outputs; leave-one-out with every leverage at the mean.

    References:
      Golub, Heath, Wahba, Technometrics 21 (1979), eq. 1.4.
    """
    y = np.asarray(y, np.float64)
    residual = y - _fitted(parts, y, strength)
    return float(
        np.square(residual).mean() / (1 - leverages(parts, strength).mean()) ** 2
    )


def signs(labels, classes: int) -> np.ndarray:
    """Returns a ridge classifier's (n, K) targets: 1 at the label, −1 elsewhere."""
    return 2.0 * np.eye(classes)[np.asarray(labels).astype(int)] - 1.0


class Fit(NamedTuple):
    """What the iterations came to, per strength.

    Attributes:
      path: the models.
      steps: (S,) iterations taken.
      slopes: (S,) largest component of the gradient at the end, in the solver's units.
    """

    path: Path
    steps: np.ndarray
    slopes: np.ndarray


def logistic(
    parts: Spectrum,
    labels,
    classes: int,
    strengths,
    *,
    tolerance: float = 1e-7,
    steps: int = 1000,
) -> Fit:
    """Minimises mean cross-entropy + ½·strength·‖W‖² by L-BFGS, in float64.

    One compiled program walks from the strongest penalty to the weakest, each model
    starting from the one before. It works on the scores, of which there are at most as
    many as examples, however wide the features, each in units of its curvature.

    Args:
      parts: of the features.
      labels: (n,) integers in [0, classes).
      classes: K; every class has its column, and columns and intercepts sum to 0.
      strengths: (S,), positive, in any order.
      tolerance: stops where no component of the gradient, in these units, is larger;
        weights were then within 4e-4 of the largest at strength 1e-5, closer above.
      steps: at most, per strength.

    References:
      Liu, Nocedal, On the Limited Memory BFGS Method, Math. Programming 45 (1989).
    """
    strengths = np.asarray(strengths, np.float64)
    order = np.argsort(-strengths, kind="stable")
    # Features of one width share one program, whatever their rank: dead units differ.
    (n, rank), d = parts.scores.shape, len(parts.mean)
    scores = np.pad(parts.scores, ((0, 0), (0, min(n, d) - rank)))
    with jax.enable_x64(True):
        found = _walk(
            jnp.asarray(scores),
            jnp.asarray(np.asarray(labels).astype(np.int32)),
            jnp.asarray(strengths[order]),
            jnp.float64(tolerance),
            jnp.int32(steps),
            classes,
        )
        found = [np.asarray(value)[np.argsort(order)] for value in found]
    along, intercept, taken, slopes = found
    # Softmax does not see a constant over classes, and the penalty is least without.
    along = along - along.mean(2, keepdims=True)
    intercept = intercept - intercept.mean(1, keepdims=True)
    weights = parts.axes @ along[:, :rank]
    path = Path(strengths, weights, intercept - parts.mean @ weights)
    return Fit(path, taken, slopes)


@functools.partial(jax.jit, static_argnums=5)
def _walk(scores, labels, strengths, tolerance, steps, classes):
    """Returns (along (S, r, K), intercept (S, K), steps (S,), slopes (S,))."""

    def fit(start, strength):
        scale = _scales(scores, start, strength)

        def loss(u):
            along, intercept = jax.tree.map(jnp.multiply, u, scale)
            logits = scores @ along + intercept
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return jnp.mean(nll) + 0.5 * strength * jnp.sum(jnp.square(along))

        u = jax.tree.map(jnp.divide, start, scale)
        u, taken, slope = _lbfgs(loss, u, tolerance, steps)
        found = jax.tree.map(jnp.multiply, u, scale)
        return found, (*found, taken, slope)

    rank = scores.shape[1]
    zero = jnp.zeros((rank, classes), scores.dtype), jnp.zeros(classes, scores.dtype)
    return jax.lax.scan(fit, zero, strengths)[1]


def _scales(scores, model, strength):
    """Returns the Hessian's diagonal^(−½) at a model: (r, K) and (K,).

    In units of these, features of uneven scale need a tenth of the iterations.
    """
    p = jax.nn.softmax(scores @ model[0] + model[1])
    spread = jnp.maximum(p * (1 - p), 1e-12)
    curvature = jnp.square(scores).T @ spread / len(scores)
    return jax.lax.rsqrt(curvature + strength), jax.lax.rsqrt(jnp.mean(spread, 0))


def _lbfgs(loss, start, tolerance, steps):
    """Minimises a smooth function; returns (where, steps taken, largest slope)."""
    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def slope(state):
        grad = optax.tree.get(state, "grad")
        return optax.tree.norm(grad, ord=jnp.inf)

    def more(carry):
        _, state, at = carry
        return (at == 0) | ((at < steps) & (slope(state) > tolerance))

    def step(carry):
        u, state, at = carry
        value, grad = value_and_grad(u, state=state)
        change, state = solver.update(
            grad, state, u, value=value, grad=grad, value_fn=loss
        )
        return optax.apply_updates(u, change), state, at + 1

    u, state, at = jax.lax.while_loop(
        more, step, (start, solver.init(start), jnp.int32(0))
    )
    return u, at, slope(state)
