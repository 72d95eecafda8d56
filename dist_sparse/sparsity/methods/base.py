"""The base of all sparse methods: every hook, in the order in which a run calls it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from dist_sparse.config.sparsity import SparsityConfig
from dist_sparse.sparsity.access import Wanted, WeightAccess
from dist_sparse.sparsity.agreement import Agreement
from dist_sparse.sparsity.masks import Masks, combined, together
from dist_sparse.sparsity.methods.carried import ENTRY as CARRIED
from dist_sparse.sparsity.methods.context import Context
from dist_sparse.sparsity.methods.plan import FixedMasks, Plan
from dist_sparse.sparsity.structures import Structure


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What an update step means for the rest of the step."""

    skip_optimizer: bool = False
    updates_masks: bool = False


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network that a method trains; most train a single one, without a label."""

    label: str
    masks: Masks
    applied: Callable[[], AbstractContextManager[None]] = nullcontext
    """Between two steps: within the context the model computes as this network."""


@dataclass(frozen=True, kw_only=True)
class StoredMasks:
    """A network in a checkpoint: its packed masks by layer, and the tensors that it has in place of the model's own."""

    label: str
    masks: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Method(ABC):
    """A sparse method: which masks a run begins with, and when and how they move.

    A run calls these hooks in this order. Those without a default must be written; of the others the default is what a method
    with masks that never move needs.

    *Before the run, as class methods, each rank for itself (``--plan`` calls them too):*

    =======================  ==================================  ========================================================
    hook                     default                             if it is left out where it is needed
    =======================  ==================================  ========================================================
    :attr:`name`             none                                an error: the method cannot be listed in ``METHODS``
    :attr:`uses`             density, distribution, structure    keys of the method are called without effect
    :meth:`derive`           nothing                             density and structure must be given beside the method's
                                                                 own section
    :meth:`refusal`          every structure is taken            a structure that cannot work fails in the run
    :meth:`condition`        none                                the table of structures promises too much
    :meth:`complete`         nothing                             keys that the user leaves out stay None
    :meth:`acting`           :attr:`uses`                        keys that do nothing are not told
    :attr:`inits`            none                                ``sparsity.init`` does nothing, or is refused
    :attr:`keeps_density`    yes                                 the density of masks that are taken over is taken for the
                                                                 last one
    :meth:`exchanges_state`  never                               an optimizer that counts steps trains otherwise under ZeRO
    :meth:`plan`             none                                an error: the class is abstract
    ``Plan.forecast``        none, but in ``FixedMasks``         an error: the class is abstract; and a method that moves
                                                                 its masks with ``FixedMasks`` fails at its first update
    ``Plan.settled_after``   None: weights may always return     ``execution.shrink`` is refused
    ``Plan.keeps_counts``    no                                  packed weights under DeepSpeed are refused
    :attr:`dense_weights`    None: weights obey the masks        a moving average of weights is taken of dense ones
    :attr:`holds_untrained`  no                                  an optimizer moves weights that keep their values
    =======================  ==================================  ========================================================

    *In the run, on all ranks alike; every optimizer step calls those from* ``before_forward`` *to* ``after_step`` *(1 is the
    first step):*

    =========================  ================================  ========================================================
    hook                       default                           if it is left out where it is needed
    =========================  ================================  ========================================================
    :meth:`start`              verifies and enforces the masks   what ranks must share is not shared
    :meth:`before_forward`     nothing                           the forward has the weights of the step before
    :meth:`chooses`            no step chooses                   masks are chosen by numbers that are not finite
    :attr:`backward_masks`     the masks                         weights that the forward leaves out are not trained
    :meth:`gradient_masks`     the backward masks                inactive weights have no gradient to grow by: ranks that
                                                                 exchange active gradients only would grow by zeros
    :meth:`wanted_gradients`   None: all of them                 packed weights take the memory of whole gradients
    :meth:`after_backward`     masks the gradients               masks do not move
    the engine's step
    :meth:`after_step`         zeroes what is inactive if the    masks do not move after the step
                               optimizer does not keep zeros
    :meth:`after_overflow`     nothing; it stands in place of    what ``before_forward`` did to the weights is not undone
                               the three before it
    :meth:`enforce_masks`      zeroes what is inactive           new masks act on nothing else that is made of them
    :meth:`zero_inactive`      zeroes weights and optimizer      inactive weights that the method keeps are lost at its
                               state outside of the masks        start and at every update
    :meth:`networks`           one network                       sub-nets are neither validated nor counted
    :meth:`settled`            as ``Plan.settled_after`` says    ``execution.shrink`` removes what could return
    :meth:`at_final_density`   always                            a denser network than was asked for becomes the best
    :meth:`digests`            of the masks                      ranks that differ in further masks are not found out
    :meth:`state_dict`         the masks                         a resumed run differs from an uninterrupted one
    :meth:`load_state_dict`    the masks                         the same
    :meth:`stored_masks`       one network                       exports and ``evaluate`` see the first network only
    =========================  ================================  ========================================================

    Whether a method's forecast is what its runs do, and whether they go on bit for bit, the tests check of every entry of
    ``METHODS``.
    """

    name: ClassVar[str]
    """The value of ``sparsity.method``."""
    uses: ClassVar[frozenset[str]] = frozenset({"density", "distribution", "er_power", "table", "keep_dense", "structure"})
    """Keys of the configuration's sparsity section that act on this method."""
    dense_weights: ClassVar[str | None] = None
    """Why the model's weights between two steps are dense, and so cannot be averaged; None if they obey the masks."""
    holds_untrained: ClassVar[bool] = False
    """Weights outside of the :attr:`backward_masks` are not 0 and keep their values: no optimizer may move them."""

    inits: ClassVar[frozenset[str]] = frozenset()
    """Values of ``sparsity.init`` that the method can have, if it uses that key."""
    keeps_density: ClassVar[bool] = True
    """The last masks are as dense as the first, so that masks which are taken over give the density too."""

    @classmethod
    def derive(cls, config: SparsityConfig) -> SparsityConfig:
        """The configuration with the density or the structure that the method's own section gives.

        Raises:
            UserError: it contradicts what is given beside it.
        """
        return config

    @classmethod
    def refusal(cls, structure: Structure) -> str | None:
        """Why the method cannot work with a structure, or None if it can."""
        return None

    @classmethod
    def condition(cls, structure: Structure) -> str | None:
        """On what condition the method can work with a structure that it does not refuse, or None if on none."""
        return None

    @classmethod
    def complete(cls, config: SparsityConfig) -> SparsityConfig:
        """The configuration with the method's defaults filled in."""
        return config

    @classmethod
    def acting(cls, config: SparsityConfig) -> frozenset[str]:
        """Which of the method's :attr:`uses` act in a configuration."""
        return cls.uses if config.init in cls.inits else cls.uses - {"init"}

    @classmethod
    def exchanges_state(cls, config: SparsityConfig, *, batch_norms: bool) -> str | None:
        """Why the optimizer's state of a parameter begins anew or is exchanged in a run, or None if it never is.

        Args:
            batch_norms: the network has some.
        """
        return None

    @classmethod
    @abstractmethod
    def plan(cls, context: Context) -> Plan:
        """What the method will do on these layers in this run; ``FixedMasks.of(cls, context)`` if it moves nothing.

        Raises:
            UserError: whatever in the configuration cannot work on these layers and in this run.
        """

    def __init__(self, plan: Plan, *, access: WeightAccess, masks: Masks, agreement: Agreement, remask: bool) -> None:
        """A subclass reads its parameters from ``plan``.

        Args:
            plan: what :meth:`plan` has returned.
            access: the engine's weights, gradients and optimizer state.
            masks: the first masks, the same on all ranks.
            agreement: how ranks decide together.
            remask: the optimizer does not keep zeros by itself, so weights and state are masked after each step.
        """
        self.access, self.masks, self.agreement, self._remask = access, masks, agreement, remask
        self._moves = not isinstance(plan, FixedMasks)
        self._settled_after = plan.settled_after
        self._carried = plan.context.carried
        self._in_update = False
        self.changed: dict[str, int] = {}
        """Entries of each mask that the last update changed."""

    def start(self) -> None:
        """Begin, or go on after a checkpoint: all ranks hold the same masks, and the model obeys them. Collective."""
        self.verify_masks()
        self.enforce_masks()

    def before_forward(self, step: int) -> None:  # noqa: B027 - a hook that most methods do without
        """Prepare the weights of step ``step``; called again before each further micro-batch of it."""

    @property
    def backward_masks(self) -> Masks:
        """The weights that are trained: gradients outside of these masks are zeroed. They hold the :attr:`masks`."""
        return self.masks

    def gradient_masks(self, step: int) -> Masks | None:
        """Outside of these masks step ``step`` uses no gradient, so that none is exchanged; None if it uses all.

        Asked between :meth:`before_forward` and :meth:`after_backward`; the cost of training counts them.
        """
        return self.backward_masks

    def wanted_gradients(self, step: int) -> Wanted | None:
        """What step ``step`` uses of the gradients of all weights, in the layers that this rank decides; None: all of them.

        An engine whose weights are packed holds no more than that. Asked where :meth:`gradient_masks` is.
        """
        return None

    def chooses(self, step: int) -> bool:
        """The gradients of step ``step``, or the weights, choose masks in it, or its gradients are kept to choose by later.

        Such a step does not count if one of them is not finite. Asked between :meth:`before_forward` and
        :meth:`after_backward`. A method that keeps something of every step is to see to it by itself, since no host should
        wait for the device at every step.
        """
        return False

    def after_backward(self, step: int) -> Decision:
        """Move the masks if it is time, then mask the gradients."""
        self.access.mask_gradients(self.backward_masks)
        return Decision()

    def after_overflow(self, step: int) -> Decision:
        """Told of a step that does not count, in place of the two calls around its step: it moves nothing."""
        return Decision()

    def after_step(self, step: int) -> None:
        """Finish the step: off-mask weights and state are exactly 0 afterwards."""
        if self._remask:
            self.zero_inactive()

    def networks(self) -> Sequence[Network]:
        """The networks that are trained; the last is the one that the run is for."""
        return [Network(label="", masks=self.masks)]

    def settled(self, step: int) -> bool:
        """Between two steps, after ``step``: what is inactive stays so to the end of the run, and need not be kept."""
        return self._settled_after is not None and step >= self._settled_after

    def at_final_density(self) -> bool:
        """Between two steps: the last of the :meth:`networks` has come to the density where it stays to the end of the run.

        Networks from before are denser, or thinner, than was asked for: none of them can be the run's best. A method whose
        density moves overrides this.
        """
        return True

    def digests(self, *, in_memory: bool = False) -> dict[str, int]:
        """A digest of every mask's bits, or of what is ``in_memory`` (:meth:`.Masks.digests`)."""
        return self.masks.digests(in_memory=in_memory)

    def digest(self) -> str:
        """64 bits over all masks."""
        return combined(self.digests())

    def verify_masks(self) -> None:
        """Stop all ranks if their masks differ, be it in memory or in the bits that are saved. Collective.

        Raises:
            MaskDisagreement: on every rank, naming the layers.
        """
        self.agreement.verify(lambda: together(self.digests(in_memory=True), self.digests()))

    @contextmanager
    def one_update(self) -> Iterator[None]:
        """Within the context :meth:`replace_masks` may be called more than once, and what changes counts as one update.

        Ranks compare their masks once, at its end: the new ones, and what each has held in memory before new ones could hide
        that a rank had lost the old. Collective.
        """
        before = self.masks.packed()
        held = {} if self.agreement.alone else self.digests(in_memory=True)
        self._in_update = True
        try:
            yield
        finally:
            self._in_update = False
        self.agreement.verify(lambda: together(held, self.digests()))
        self.changed = self.masks.changed_since(before)

    def replace_masks(self, masks: Mapping[str, Tensor]) -> None:
        """The method moves its masks: :meth:`take_masks`, which its plan must have forecast. Collective."""
        assert self._moves, f"{self.name} moves its masks, which its plan says are fixed: it needs a plan with a forecast"
        self.take_masks(masks)

    def take_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Take new masks, the same on all ranks, and zero everything that is now inactive. Collective.

        It is an update by itself outside of :meth:`one_update`. Whoever is not the method, such as a probe of its network,
        calls this: it is no part of the plan.
        """
        with nullcontext() if self._in_update else self.one_update():
            self.masks.replace(masks)
            self.enforce_masks()

    def enforce_masks(self) -> None:
        """Make the model and its optimizer obey new masks, or those of a checkpoint."""
        self.zero_inactive()

    def zero_inactive(self) -> None:
        """Zero weights and optimizer state outside of the masks. A method that keeps inactive weights overrides this."""
        self.access.mask_weights(self.masks)
        self.access.mask_optimizer_state(self.masks)

    def state_dict(self) -> dict[str, Any]:
        """What decides the method's future, the same on every rank."""
        carried = {} if self._carried is None else {CARRIED: dict(self._carried.active)}
        return {**self.masks.state_dict(), **carried}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state_dict` was taken."""
        self.masks.load_state_dict(state)

    @classmethod
    def stored_masks(cls, state: Mapping[str, Any]) -> Sequence[StoredMasks]:
        """The :meth:`networks` that a :meth:`state_dict` holds."""
        return [StoredMasks(label="", masks=state["masks"])]
