"""``Mask`` and the sparse layers of github.com/mengjian0502/AST, with the options of its CIFAR script: two sub-nets in turn.

Its script trains without the gradient correction (which the released loop could not apply: it compares a gradient with itself),
so our run beside it does, too. Its sub-nets' updates are offset by 10 rounds here, instead of 100 of 160 epochs.
"""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks.references.reference import INTERVAL, Comparison, Driver, Job, Reference, put_in_place

if TYPE_CHECKING:
    from torch import nn

    from dist_sparse.trainer import Trainer

RAMP_END, DROP_FRACTION, OFFSET = 0.5, 0.5, 10


class Ast(Driver):
    """Gives our network the repository's layers, updates masks before a step, and goes on to the next sub-net after it."""

    def __init__(self, module: Any, job: Job) -> None:
        self._module, self._job = module, job
        self._densities = [2 * job.density, job.density]

    def begin(self, trainer: "Trainer") -> None:
        model, epochs = trainer.engine.model, trainer.config.train.epochs
        self._layers = self._with_its_layers(model)
        arguments = SimpleNamespace(
            update_frequency=INTERVAL,
            init_density=1.0,
            init_prune_epoch=0,
            final_prune_epoch=RAMP_END * epochs,
            multiplier=1,
            pc_grad=False,
        )
        self._mask = self._module.Mask(
            model,
            optimizer=trainer.engine._optimizer,
            prune_rate=DROP_FRACTION,
            prune_rate_decay=self._module.CosineDecay(DROP_FRACTION, self._job.steps),
            args=arguments,
            train_loader=range(self._job.steps // epochs),
            slist=self._densities,
            Itertrain=True,
            offset=OFFSET,
        )
        self._mask.reg_masks(train=True)
        self._switch(0)

    def _with_its_layers(self, model: "nn.Module") -> list[Any]:
        """Put its layers in the place of ours, with the same parameters."""
        from torch import nn

        layers = []
        for name, old in list(model.named_modules()):
            if isinstance(old, nn.Linear):
                sizes = (old.in_features, old.out_features, old.bias is not None)
                layers.append(self._module.SparsLinear(*sizes, len(self._densities), uspars=True))
                put_in_place(model, name, layers[-1])
        return layers

    def _switch(self, sub_net: int) -> None:
        for layer in self._layers:
            layer._switch(sub_net)
        self._mask.switch(sub_net)

    def gradients_ready(self, trainer: "Trainer") -> None:
        step = trainer.progress.step
        self._mask.step(step % len(self._densities), step, trainer.engine.model)
        for layer in self._layers:
            layer.weight.grad.mul_(layer.mask)

    def stepped(self, trainer: "Trainer") -> None:
        """The sparsest sub-net is what is validated; the run's last step is one of its own."""
        done = trainer.progress.step
        last = done == self._job.steps
        self._switch(len(self._densities) - 1 if last else done % len(self._densities))

    def density(self) -> float:
        total, zero = self._mask._param_stats()
        return 1 - zero / total


REFERENCE = Reference(
    option="ast",
    repository="mengjian0502/AST",
    folder=".",
    module="pruners",
    comparisons=(Comparison(recipe="ast", changed=(("sparsity.ast.correction", "none"),)),),
    driver=Ast,
)
