"""The recipes `submerge recipe new` starts from: commented YAML, shipped with the package."""

from __future__ import annotations

from importlib.resources import files

from submerge.errors import RecipeError, nearest, quoted

__all__ = ["template", "template_names"]


def template_names() -> list[str]:
    """Return the names of the templates, sorted."""
    found = (files("submerge.recipe") / "templates").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in found if file.name.endswith(".yaml"))


def template(name: str = "even") -> str:
    """Return a template's text, comments included; it loads as it is.

    Raises:
        RecipeError: there is none of that name.
    """
    known = template_names()
    if name not in known:
        close = nearest(name, known)
        raise RecipeError(
            f"no template is called {quoted(name)}, "
            f"expected one of {', '.join(map(quoted, known))}",
            hint=f"did you mean {quoted(close[0])}?" if close else None,
        )
    return (files("submerge.recipe") / "templates" / f"{name}.yaml").read_text(encoding="utf-8")
