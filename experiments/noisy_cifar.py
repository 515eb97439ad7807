"""Human label noise: five losses on CIFAR-10N, from weights and from scratch.

Needs:     below the folder that JAXTL_DATA_DIR names: cifar10/cifar10_jpeg_{train10k,
           train40k_rest,test10k}.npz, cifar10/cifar10n_train50k_labels.npz and
           pretrained/resnet20-12fca82f.safetensors.
Run:       jaxtl run experiments/noisy_cifar.py, or `jaxtl reproduce cifar10n`, which
           trains the same cells
           python experiments/noisy_cifar.py [ARM …]    # how RATES were found
Expected:  the table of the full run is not in yet. What chose the rates is: accuracy of
           cross-entropy at 40 % noise on noisy labels held out, mean over two seeds (a
           perfect model would get about 60 %), for rates of 1e-4, 3e-4, 1e-3 and 3e-3:

           weights   58.3   54.8   49.4   46.0
           scratch   25.7   31.2   36.4   38.8

Both choices stand at an edge of the grid. From weights that know these classes, the
less is learnt from wrong labels the better; from scratch ten epochs are few.
"""

import sys

import jaxtl as tl
from jaxtl.reproduce import cifar10n

SEEDS = cifar10n.SEEDS
CANDIDATES = (1e-4, 3e-4, 1e-3, 3e-3)
TRIAL_SEEDS = (100, 101)


def experiment():
    return {
        f"{arm}/{noise}/{method}": cifar10n.made(arm, noise, method)
        for arm, noises in cifar10n.ARMS.items()
        for noise in noises
        for method in cifar10n.METHODS
    }


def choose(arm: str) -> None:
    """Finds a rate: cross-entropy at 40 % noise, judged by noisy labels held out."""
    scores = {}
    for lr in CANDIDATES:
        values = []
        for seed in TRIAL_SEEDS:
            exp = cifar10n.made(arm, "worse", "CE", seed, lr)
            exp = tl.config.replace(exp, test=False)
            result = tl.train(tl.setup(exp), progress=False)
            values.append(result["val"]["accuracy"])
        scores[lr] = sum(values) / len(values)
        print(f"# {arm} lr={lr}: {100 * scores[lr]:.1f}", flush=True)
    print(f"{arm!r}: {max(scores, key=scores.get)},", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or ("weights", "scratch"):
        choose(name)
