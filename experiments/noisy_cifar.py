"""Human label noise: five losses on CIFAR-10N, from weights and from scratch.

Needs:     below the folder that JAXTL_DATA_DIR names: cifar10/cifar10_jpeg_{train10k,
           train40k_rest,test10k}.npz, cifar10/cifar10n_train50k_labels.npz and
           pretrained/resnet20-12fca82f.safetensors.
Run:       jaxtl run experiments/noisy_cifar.py, or `jaxtl reproduce cifar10n`, which
           trains the same cells
           python experiments/noisy_cifar.py [ARM …]    # how RATES were found
Expected:  experiments/reports/reproduce/cifar10n.md. Accuracy on clean test images,
           mean ± 95 % interval over 3 seeds; some 25 minutes of processor time:

           weights     9 %          17 %         40 %         40 %, 10 × rate
           CE          83.0 ± 0.1   82.3 ± 1.3   81.7 ± 0.3   65.0 ± 3.7
           GCE         83.6 ± 0.7   83.3 ± 0.4   83.1 ± 0.7   78.3 ± 3.2
           ELR         83.2 ± 0.2   82.5 ± 1.5   81.8 ± 0.5   70.0 ± 3.1
           co-teaching 83.4 ± 0.6   83.1 ± 0.7   82.7 ± 0.2   76.3 ± 2.3
           DivideMix   82.9 ± 0.4   82.5 ± 0.9   82.2 ± 0.2   65.0 ± 2.1

           scratch     9 %          17 %         40 %
           CE          52.3 ± 1.4   51.4 ± 2.2   47.3 ± 2.6
           GCE         49.3 ± 2.1   48.5 ± 4.1   46.2 ± 3.5
           ELR         50.5 ± 0.5   49.1 ± 2.7   44.6 ± 4.6
           co-teaching 52.0 ± 1.2   49.7 ± 3.0   45.0 ± 1.8
           DivideMix   49.2 ± 1.5   48.2 ± 2.0   31.2 ± 2.6

Where wrong labels are memorized (the last column above) the robust losses are far ahead
of cross-entropy, DivideMix excepted; five epochs are few for it. At the chosen rate
little is memorized and little is gained, and from scratch in ten epochs nothing is.

What chose the rates: accuracy of cross-entropy at 40 % noise on noisy labels held out,
mean over two seeds (a perfect model would get about 60 %):

           rate      1e-4   3e-4   1e-3   3e-3
           weights   58.3   54.8   49.4   46.0
           scratch   25.7   31.2   36.4   38.8

Both choices stand at an edge of the grid. From weights that know these classes, the
less is learned from wrong labels the better; from scratch ten epochs are few.
"""

import dataclasses
import sys

import jaxtl as tl
from experiments.reproduce import cifar10n

SEEDS = cifar10n.SEEDS
CANDIDATES = (1e-4, 3e-4, 1e-3, 3e-3)
TRIAL_SEEDS = (100, 101)


def experiment():
    return {
        f"{arm}/{noise}/{method}": cifar10n.experiment(arm, noise, method)
        for arm, noises in cifar10n.ARMS.items()
        for noise in noises
        for method in cifar10n.METHODS
    }


def choose(arm: str) -> None:
    """Prints the best rate of cross-entropy at 40 % noise, on held-out noisy labels."""
    scores = {}
    for lr in CANDIDATES:
        values = []
        for seed in TRIAL_SEEDS:
            exp = cifar10n.experiment(arm, "worse", "CE", seed, lr)
            exp = dataclasses.replace(exp, test=False)
            result = tl.train(tl.setup(exp), progress=False)
            values.append(result["val"]["accuracy"])
        scores[lr] = sum(values) / len(values)
        print(f"# {arm} lr={lr}: {100 * scores[lr]:.1f}", flush=True)
    print(f"{arm!r}: {max(scores, key=scores.get)},", flush=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or ("weights", "scratch"):
        choose(name)
