"""The hands: carry out the steps of an intent in order, and answer with an outcome."""

from __future__ import annotations

from collections.abc import Iterable

from diagnose.errors import DiagnoseError
from diagnose.launch.spec import change
from diagnose.model.incident import Intent, Plan
from diagnose.model.observation import Outcome, StepResult
from diagnose.model.remedy import Advice, FlagFit, FlagScale, FlagSet, Step
from diagnose.model.text import Text
from diagnose.ports import Actuator, Clock


class Hands:
    """Performs intents with the actuators it was given, one for each action."""

    def __init__(self, actuators: Iterable[Actuator], clock: Clock) -> None:
        self._actuators = {one.action: one for one in actuators}
        self._clock = clock

    def describe(self, plan: Plan) -> tuple[Text, ...]:
        """Say what each step would do. Touches nothing."""
        return tuple(self._describe(step, plan) for step in plan.steps)

    def perform(self, intent: Intent) -> Outcome:
        """Do the steps in order; the first that fails ends it. Blocks as long as the steps take.

        A second call does no further harm: each hand looks whether its work is done. Never raises: what
        goes wrong is a result with its cure.
        """
        results: list[StepResult] = []
        for step in intent.plan.steps:
            results.append(self._perform(step, intent))
            if not results[-1].ok:
                break
        return Outcome(
            target=intent.target,
            at=self._clock.now(),
            intent_id=intent.id,
            ok=all(one.ok for one in results),
            results=tuple(results),
        )

    def _describe(self, step: Step, plan: Plan) -> Text:
        if isinstance(step, Advice):
            more = f": {step.command}" if step.command else ""
            return Text(step.text.en + more, step.text.zh + more)
        if isinstance(step, FlagSet | FlagScale | FlagFit):
            changes = "; ".join(change(one.flag, one.before, one.after) for one in plan.changes) or "-"
            return Text(f"Change the launch command: {changes}", f"修改启动命令：{changes}")
        hand = self._actuators.get(action_of(step))
        if hand is None:
            return Text(f"{action_of(step)}: no such hand here", f"{action_of(step)}：此处无法执行")
        return hand.describe(step, plan)

    def _perform(self, step: Step, intent: Intent) -> StepResult:
        action = action_of(step)
        if isinstance(step, Advice):
            return _well(action, Text("left to a person", "留待人工处理"))
        if isinstance(step, FlagSet | FlagScale | FlagFit):
            return _well(action, Text("in the command that is started next", "已写入下次启动的命令"))
        hand = self._actuators.get(action)
        if hand is None:
            return StepResult(action=action, ok=False, text=f"no hand for {action} here. Do it by hand.")
        try:
            return _well(action, hand.perform(step, intent))
        except DiagnoseError as error:
            return StepResult(action=action, ok=False, text=" ".join(str(error).split()))
        except Exception as error:  # noqa: BLE001 - a broken hand must not take the daemon down
            told = f"{type(error).__name__}: {error}. A fault of diagnose: report it, then act by hand."
            return StepResult(action=action, ok=False, text=" ".join(told.split()))


def _well(action: str, told: Text) -> StepResult:
    return StepResult(action=action, ok=True, text=told.en, zh=told.zh)


def action_of(step: Step) -> str:
    """Return a step's name in YAML.

    >>> action_of(Advice(text=Text("a", "b")))
    'advice'
    """
    return str(step.__struct_config__.tag)
