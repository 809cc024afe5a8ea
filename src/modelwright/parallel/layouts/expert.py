"""Expert: ranks have different samples, and each holds some of every layer's experts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from modelwright.base.world import Mesh
from modelwright.parallel import Exchange, ExchangeTechnique
from modelwright.parallel.draft import REPLICAS, Draft
from modelwright.parallel.experts import apply, expert_parameters
from modelwright.parallel.experts.exchange import exchanges
from modelwright.parallel.experts.program import ExpertProgram
from modelwright.parallel.program import LocalProgram


@dataclass(frozen=True, kw_only=True)
class Expert:
    """Expert parallelism: tokens travel to the ranks that hold their experts, and back; none is dropped.

    Source: Lepikhin et al. 2020, "GShard" (arXiv:2006.16668).

    Attributes:
        axis: the axis of the mesh.
    """

    axis: str = "expert"

    def apply(self, program: LocalProgram, mesh: Mesh) -> LocalProgram:
        """Keep this rank's experts of a model that is the same on every rank.

        Raises:
            ModelwrightError: there are no experts, or they cannot be shared out evenly.
        """
        group = mesh.axis(self.axis)
        if group.size == 1:
            return program
        program.held.divide(apply(program.model, group, program.held.parts, program.divisions))
        program.in_step = True
        return ExpertProgram(program, group) if type(program) is LocalProgram else program

    def sketch(self, draft: Draft) -> Draft:
        """Leave of the draft's experts a rank's share; tokens are taken to choose all of them equally often.

        Raises:
            ModelwrightError: there are no experts, or they cannot be shared out evenly.
        """
        draft.experts = draft.group((self.axis,))
        apply(draft.model, draft.experts, divisions=draft.divisions)
        spread = set(expert_parameters(draft.model))
        draft.hold(lambda name: REPLICAS if name in spread else (*REPLICAS, self.axis))
        return draft

    def connect(
        self,
        program: LocalProgram,
        mesh: Mesh,
        exchange: ExchangeTechnique,
        replicas: Sequence[str] = ("replicate", "context"),
    ) -> None:
        """Sum gradients of experts over ``replicas``, all others also over the ranks that share the experts.

        What is kept here has worked on the tokens of all these ranks: its gradient is summed over them already.
        """

        def build(parameters: Sequence[nn.Parameter]) -> Exchange:
            return exchanges(
                program.model,
                exchange,
                parameters,
                replicas=mesh.along(*replicas),
                everyone=mesh.along(*replicas, self.axis),
            )

        program.connect(build)
