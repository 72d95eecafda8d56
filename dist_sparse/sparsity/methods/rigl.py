"""RigL: grow where the dense gradient is largest.

U. Evci, T. Gale, J. Menick, P. S. Castro, E. Elsen: "Rigging the Lottery: Making All Tickets Winners", ICML 2020, arXiv
1911.11134; and its in-time over-parameterisation form, S. Liu, L. Yin, D. C. Mocanu, M. Pechenizkiy: "Do We Actually Need
Dense Over-Parameterization?", ICML 2021, arXiv 2102.02887 (called DST in the GraNet repository).

Every ``interval`` steps, per layer with n active weights and drop fraction f(t)::

    k    = floor(f(t) n)                      (itop: ceil)
    keep = the n - k active weights of largest |w|
    grow = the k others of largest |g|, the k just dropped among them
    mask = keep + grow;  newly grown weights and their momentum are 0

    original:  f(t) = alpha / 2 (1 + cos(pi t / T_end)),               updates while t < T_end, instead of the optimizer step
    itop:      f(t) = 0.005 + (p0 - 0.005) / 2 (1 + cos(pi t / T)),    updates to the end of the run, after the optimizer step

Defaults: original: alpha 0.3, interval 100, T_end 75 % of the run (the ResNet-50 context of the paper: 25,000 of 32,000
steps are 78 %); itop: p0 0.5, interval 1,000 (CIFAR in the GraNet repository; ImageNet there: 4,000).

Deviations from the references: the gradient is the mean over ranks and micro-batches before the absolute value is taken
(rigl-torch averages absolute values of local gradients, another ranking); the first update is at step ``interval``, not 0
(TensorFlow code), and an update counts as a step; ties break by index instead of by noise of 1e-5; an active weight that is
0 is kept before an inactive one.

Found here (LeNet-300-100 on Fashion-MNIST, five seeds, ``benchmarks/README.md``), with 95 % intervals: itop is 0.49 ± 0.22
points above original at density 0.005, 0.06 ± 0.24 at 0.02, and 0.16 ± 0.11 below it at 0.1. With equal epochs GMP from a
dense start is 1.07 ± 0.28 above it at 0.02, for seven times its FLOPs.
"""

from dist_sparse.sparsity.methods.drop_grow.method import DropAndGrow


class RigL(DropAndGrow):
    """Drop by magnitude, grow by gradient."""

    name = "rigl"
    default_growth = "gradient"
