"""Distillation of ResNet-56 into ResNet-20 and into a CNN, on JPEG-CIFAR.

The students learn from 1,000, 5,000 or all labels of the train images. The weights of
the losses and the stages that they compare are those of RepDistiller's scripts, of DKD
and DIST those of their authors; optimizer and length are the same for every method.
There is no augmentation, so that the teacher's outputs are computed once.

The teacher was trained on the lossless originals of these train images. It has seen
neither these JPEG copies, nor the test images in any form.

Needs:     cifar10/cifar10_jpeg_{train10k,train40k_rest,test10k}.npz and
           pretrained/resnet56-4bfd9763.safetensors below the folder that JAXTL_DATA_DIR
           names.
Run:       jaxtl sweep experiments/distillation_cifar.py
Expected:  the CNN with 1,000 labels, test accuracy in per cent, mean ± 95 % interval
           over 3 seeds, on 2 cores, some 45 seconds a run:

           CNN      1,000 labels, rate 0.01
           labels   47.9 ± 2.1
           KD       50.8 ± 2.3
           DKD      51.9 ± 1.6
           DIST     47.9 ± 2.8
           AT       44.1 ± 2.4
           SP       53.1 ± 0.4
           VID      47.7 ± 1.9
           RKD      49.8 ± 1.5
           PKT      51.0 ± 1.9
           NST      50.6 ± 0.7
           CRD      48.2 ± 4.3
           FitNets  42.4 ± 0.5

           The same with 5,000 labels, on 2 busy cores:

           CNN      5,000 labels, rate 0.01
           labels   60.9 ± 1.0
           KD       64.3 ± 1.8
           DKD      64.4 ± 2.0
           DIST     62.2 ± 0.3
           AT       58.0 ± 2.1
           SP       63.9 ± 1.7
           VID      60.5 ± 2.1
           RKD      61.6 ± 0.9
           PKT      61.6 ± 2.1
           NST      63.4 ± 1.1
           CRD      62.3 ± 0.9
           FitNets  51.7 ± 8.3

           With all labels, 3,000 steps, some 100 seconds a run beside other work:

           CNN      all labels, rate 0.01
           labels   73.6 ± 1.3
           KD       75.2 ± 0.2
           DKD      75.5 ± 0.5
           DIST     74.5 ± 0.1
           AT       69.2 ± 0.9
           SP       75.1 ± 1.0
           VID      73.3 ± 0.7
           RKD      73.7 ± 1.2
           PKT      73.9 ± 1.2
           NST      73.9 ± 1.1
           CRD      73.2 ± 0.4
           FitNets  64.5 ± 18.3

           Not measured yet: ResNet-20 as the student.

Paired by seed and beside labels alone, as the sweep below prints it (p adjusted by Holm
over the 11 comparisons): SP gains 5.3 ± 1.7 points, DKD 4.0 ± 0.8, PKT 3.2 ± 0.6, KD
3.0 ± 0.8 and RKD 1.9 ± 0.6; AT loses 3.7 ± 0.8 and FitNets 5.5 ± 1.7; DIST
(−0.0 ± 3.0), VID (−0.1 ± 0.3), NST (+2.7 ± 2.1) and CRD (+0.4 ± 3.1) are not told
apart. Commands:

    jaxtl sweep experiments/distillation_cifar.py --mode alone --workers 2
    variant=CNN/1000/labels,CNN/1000/KD,CNN/1000/DKD,CNN/1000/DIST,CNN/1000/AT,
    CNN/1000/SP,CNN/1000/VID,CNN/1000/RKD,CNN/1000/PKT,CNN/1000/NST,CNN/1000/CRD,
    CNN/1000/FitNets

With 5,000 labels NST alone gains significantly (2.5 ± 0.4). Not told apart are DKD
(+3.6 ± 2.7), KD (+3.5 ± 2.6), SP (+3.0 ± 2.3), CRD (+1.4 ± 1.0), DIST (+1.3 ± 1.2), RKD
(+0.7 ± 0.3), PKT (+0.7 ± 2.3), VID (−0.4 ± 1.1), AT (−2.9 ± 1.1) and FitNets (−9.2 ±
7.8). With all labels no gain is told apart: DKD (+1.9 ± 1.1), KD (+1.6 ± 1.2), SP (+1.5
± 1.2), DIST (+0.9 ± 1.3), NST (+0.3 ± 1.5), PKT (+0.2 ± 0.2), RKD (+0.1 ± 0.5), VID
(−0.4 ± 1.1), CRD (−0.5 ± 1.0), AT (−4.4 ± 2.2) and FitNets (−9.1 ± 19.6). What DKD, KD
and SP gain falls from 3 to 5 points with 1,000 labels to 1.5 to 1.9 with all. Commands:
the first one with CNN/5000 or CNN/50000 in place of CNN/1000. The rate is the one that
1,000 labels chose.

AT and FitNets do harm by their authors' weights, which are those of RepDistiller's 240
epochs of CIFAR-100. Accuracy on validation images, seed 100, 1,000 labels, where labels
alone have 46.2 %: AT has 43.1 at that weight, 47.4 at a tenth and 50.2 at a hundredth
of it; FitNets 44.4, 51.9 at a tenth and 49.4 at a hundredth. DIST has
49.0, 49.4 at twice the weight, and 47.4 and 45.9 with T = 4 in place of 1. Commands:

    jaxtl sweep experiments/distillation_cifar.py --mode alone variant=CNN/1000/FitNets
    seed=100 test=False terms.hint.weight=100.0,10.0,1.0

and with variant=CNN/1000/AT terms.at1.weight=0.0390625 terms.at2.weight=0.15625
terms.at3.weight=0.625 (a hundredth), with variant=CNN/1000/DIST
terms.dist.weight=1.0,2.0 terms.dist.temperature=1.0,4.0 in its place.

DKD needs its authors' warm-up, which is its default, and their β for this teacher, 2.
With β = 8 (terms.dkd.other=8.0), their program's default, it has 44.6 ± 10.4, 56.0 ±
2.7 and 66.6 ± 0.3 % with 1,000, 5,000 and all labels, the last significantly below
labels alone; without the warm-up, too (terms.dkd.weight=1.0), 32.2 ± 9.0, 28.3 [0.0,
67.6] and 52.2 ± 8.2 %. On validation images, seed 100, 1,000 labels, β = 8, labels
alone have 46.2 %, DKD 31.2 without the warm-up, 47.7 with it, 42.7 with a clipped
gradient in its place, 41.1 with both, and 48.9 at a rate of 0.002 without
(terms.dkd.weight=1.0 optim.lr.peak=0.002).

    jaxtl sweep experiments/distillation_cifar.py --mode alone variant=CNN/1000/DKD
    seed=100 test=False terms.dkd.other=8.0 optim.clip=null,1.0
    "terms.dkd.weight=tl.optim.LinearRamp(end=0.083)"

and the same with terms.dkd.weight=1.0.

ResNet-20 has 269,722 parameters and the CNN 208,786, as `jaxtl show` of this file
prints. With all labels the train images are 49,000, since 1,000 are validation images.
No gradient is clipped.

Only the CNN's rate is chosen, and of the labels' row alone: its accuracy on validation
images is 10.3, 48.5 and 46.2 % at 0.05, 0.01 and 0.002, for seed 100, on 2 busy cores:

    jaxtl sweep experiments/distillation_cifar.py variant=CNN/1000/labels
    optim.lr.peak=0.05,0.01,0.002 seed=100 --mode alone

At 0.05, which the file had for both students, a comparison is misleading. For seed 0
SP has 47.7 % of the test images right there and labels alone 31.1 %, KD 34.1, DIST
35.9, VID 30.1, AT 27.3 and NST 22.9 %; DKD, RKD and PKT stay at 10.0 %, one class for
all images, FitNets has no finite gradient at step 3, and CRD was not run (a command as
above with optim.lr.peak=0.05 seed=0). At 0.01 labels alone have 48.1 % for the
same seed.
"""

import jaxtl as tl

SEEDS = range(3)
STEPS = {1000: 1000, 5000: 1000, 50_000: 3000}  # of 64 images
CIFAR = "cifar10/cifar10_jpeg"
TEACHER = {
    "teacher": tl.pretrained.FromFile("pretrained/resnet56-4bfd9763.safetensors"),
    "teacher_model": tl.models.ResNet(depth=56),
}
STUDENTS = {
    "ResNet-20": tl.models.ResNet(depth=20),
    "CNN": tl.models.CNN(widths=(32, 64, 128), units=56, pool=3, norm=True),
}
RATES = {"ResNet-20": 0.05, "CNN": 0.01}
# Stages of the students beside stage1, stage2 and stage3 of the teacher, and how many
# positions the smaller of the two feature maps has.
STAGES = {
    "ResNet-20": ("stage1", "stage2", "stage3"),
    "CNN": ("block1", "block2", "block3"),
}
POSITIONS = {"ResNet-20": (1024, 256, 64), "CNN": (256, 64, 16)}


def terms_of(student: str) -> dict[str, dict[str, tl.Term]]:
    """Method -> its terms beside the labels'."""
    d = tl.distillation
    pairs = dict(zip(STAGES[student], ("stage1", "stage2", "stage3")))
    middle, last = ({s: pairs[s]} for s in STAGES[student][1:])
    attention = {
        f"at{i}": d.AT(weight=1000 / positions, stages={stage: pairs[stage]}, **TEACHER)
        for i, (stage, positions) in enumerate(zip(pairs, POSITIONS[student]), 1)
    }
    return {
        "labels": {},
        "KD": {"kd": d.KD(weight=0.9, **TEACHER)},
        "DKD": {"dkd": d.DKD(other=2.0, **TEACHER)},  # β of ResNet-56 → ResNet-20
        "DIST": {"dist": d.DIST(weight=1.0, **TEACHER)},
        "FitNets": {"hint": d.FitNets(weight=100.0, stages=middle, **TEACHER)},
        "AT": attention,
        "NST": {"nst": d.NST(weight=50.0, stages=pairs, **TEACHER)},
        "SP": {"sp": d.SP(weight=3000.0, stages=last, **TEACHER)},
        "RKD": {"rkd": d.RKD(weight=1.0, stages=last, **TEACHER)},
        "PKT": {"pkt": d.PKT(weight=30_000.0, stages=last, **TEACHER)},
        "VID": {"vid": d.VID(weight=1.0, stages=pairs, **TEACHER)},
        "CRD": {"crd": d.CRD(weight=0.8, stages=last, **TEACHER)},
    }


def experiment_of(student: str, labels: int, terms) -> tl.Experiment:
    """One row of the table.

    Args:
      student: name of the model that is trained.
      labels: number of train images.
      terms: of the method.
    """
    first, rest = f"{CIFAR}_train10k.npz", f"{CIFAR}_train40k_rest.npz"
    full = labels == 50_000
    return tl.Experiment(
        model=STUDENTS[student],
        data=tl.data.Arrays(
            (first, rest) if full else first,
            test_path=f"{CIFAR}_test10k.npz",
            labels_per_class=None if full else labels // 10,
            val=1000,
            split_seed=0,
        ),
        terms={
            "task": tl.losses.CrossEntropy(weight=0.1 if "kd" in terms else 1.0),
            **terms,
        },
        optim=tl.optim.SGD(
            lr=tl.optim.Cosine(peak=RATES[student]), nesterov=True, weight_decay=5e-4
        ),
        batch=64,
        steps=STEPS[labels],
        evaluate_every=STEPS[labels] // 4,
        cache_bytes=2**33,
    )


def experiment():
    return {
        f"{student}/{labels}/{name}": experiment_of(student, labels, terms)
        for labels in STEPS
        for student in STUDENTS
        for name, terms in terms_of(student).items()
    }
