"""Whether a run's recipe may be used: it has one, and foreign code from elsewhere runs only if the user says so."""

from __future__ import annotations

from modelwright.base.errors import ModelwrightError
from modelwright.recipe import foreign_classes
from modelwright.runs import Run


def check_recipe(run: Run) -> None:
    """Refuse a run that only the Python script it was made in can build again.

    Raises:
        ModelwrightError: the run has no recipe.
    """
    if not run.recipe_path.exists():
        raise ModelwrightError(
            f"the run '{run.name}' was made from Python, so the command line cannot build its model",
            where=str(run.path),
            remedy=_in_python(run),
        )


def _in_python(run: Run) -> str:
    weights = run.artifacts / "model.safetensors"
    load = f"build the model in Python and load its weights: modelwright.load_weights(model, {str(weights)!r})"
    if run.status() == "finished":
        return load
    again = f"train on in Python: call modelwright.train again with run={str(run.path)!r}"
    return f"{again}; or {load}" if weights.exists() else again


def check_trust(run: Run, trust: bool) -> None:
    """Let through what this user started, what names no foreign class, and what is trusted explicitly.

    Raises:
        ModelwrightError: there is no recipe, or it came from elsewhere and would import code.
    """
    check_recipe(run)
    foreign = foreign_classes(run.recipe(), source=str(run.recipe_path))
    if foreign and not trust and not run.ours():
        raise ModelwrightError(
            f"this run came from elsewhere and would run code of its own: {', '.join(foreign)}",
            where=str(run.recipe_path),
            remedy="read that code, then add --trust",
        )


def check_unedited(run: Run) -> None:
    """Refuse a recipe that was changed behind the run's back: nobody would know from which step on it holds.

    Raises:
        ModelwrightError: what the file says is not what the run wrote.
    """
    if run.edited():
        raise ModelwrightError(
            "the recipe of the run was changed by hand",
            where=str(run.recipe_path),
            remedy="put it back, and say what is to be otherwise on the command line: what a resume may change goes by "
            f"modelwright resume {run.path} FIELD=VALUE, the rest by  modelwright branch {run.path} FIELD=VALUE",
        )
