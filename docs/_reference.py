"""Write the reference from the code: a page for each public name and each command, and one for studies."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import featbank

HERE = Path(__file__).parent
#: What a command ends with, as in `featbank.cli.main`.
EXIT_CODES = (
    "0 done; 1 done, but something failed or (with ``--strict``) was quarantined; 2 wrong input; "
    "3 missing weights, data, bank or run; 130 interrupted; 143 terminated."
)

#: What most programs need, in the order in which they need it.
FIRST = (
    "featbank.extract",
    "featbank.open_bank",
    "featbank.Bank",
    "featbank.Bank.load",
    "featbank.fit_heads",
    "featbank.open_run",
    "featbank.Run",
    "featbank.answer_of",
    "featbank.compare",
    "featbank.predict",
    "featbank.CurveDisplay",
    "featbank.Backbone.from_module",
    "featbank.find_suspects",
    "featbank.export_bank",
    "featbank.load_study",
    "featbank.run_study",
)
#: Class -> its members that stand before all others; those of a base class would stand last.
FIRST_MEMBERS = {"featbank.Bank": ("load", "features", "classes", "open")}


# names --------------------------------------------------------------------------------------------


def rooms() -> list[str]:
    """Return the public modules of the package."""
    return sorted(one.name for one in pkgutil.iter_modules(featbank.__path__) if not one.name.startswith("_"))


def names() -> dict[str, list[str]]:
    """Return the public names as they are imported, by room; one that ``featbank`` has is listed as that."""
    found: dict[str, list[str]] = {}
    for room in rooms():
        module = importlib.import_module(f"featbank.{room}")
        found[room] = [
            f"featbank.{name}" if _is_top(name, getattr(module, name)) else f"featbank.{room}.{name}"
            for name in getattr(module, "__all__", ())
        ]
    listed = {name for some in found.values() for name in some}
    for name, home in featbank._PUBLIC.items():
        room = home.removeprefix("featbank.").partition(".")[0]
        if f"featbank.{name}" not in listed:
            found.setdefault("featbank" if room.startswith("_") else room, []).append(f"featbank.{name}")
    return {room: sorted(some, key=lambda one: (one.count("."), one)) for room, some in found.items()}


def _is_top(name: str, value: Any) -> bool:
    return name in featbank._PUBLIC and getattr(featbank, name) is value


def value_of(name: str) -> Any:
    """Return what a dotted name stands for; `LookupError` if there is nothing."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        try:
            for part in parts[cut:]:
                value = getattr(value, part)
        except AttributeError:
            continue
        return value
    raise LookupError(name)


def comment_of(name: str) -> str:
    """Return the ``#:`` comment of a constant, from the module that makes it."""
    room, last = name.split(".")[1], name.rpartition(".")[2]
    home = featbank._PUBLIC.get(last, f"featbank.{room}")
    root = Path(featbank.__file__).parent / home.removeprefix("featbank.").replace(".", "/")
    files = [root.with_suffix(".py")] if root.with_suffix(".py").exists() else sorted(root.rglob("*.py"))
    pattern = re.compile(rf"((?:^#:.*\n)+)^{last}\b", re.MULTILINE)
    for file in [*files, *sorted(Path(featbank.__file__).parent.rglob("*.py"))]:
        if match := pattern.search(file.read_text()):
            return " ".join(line.removeprefix("#:").strip() for line in match[1].splitlines())
    return ""


def summary(name: str) -> str:
    """Return the first sentence of what a name says of itself, as reStructuredText."""
    value = value_of(name)
    is_code = inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)
    said = inspect.getdoc(value) if is_code else comment_of(name)
    first = " ".join((said or "").split("\n\n")[0].split())
    return first


def titled(title: str) -> str:
    """Return a title of a page."""
    return f"{title}\n{'=' * len(title)}\n\n"


def page_of(name: str) -> str:
    """Return the page of a public name."""
    value = value_of(name)
    last = name.rpartition(".")[2]
    module = name.rpartition(".")[0]
    body = titled(last) + f".. py:currentmodule:: {module}\n\n"
    if inspect.isclass(value):
        first = FIRST_MEMBERS.get(name, ())
        body += (
            f".. autoclass:: {name}\n   :members:\n   :inherited-members: BaseEstimator, Exception, tuple\n"
        )
        body += f"   :exclude-members: {', '.join(first)}\n\n" if first else ""
        for one in first:
            kind = "method" if inspect.isroutine(getattr(value, one)) else "property"
            body += f"   .. auto{kind}:: {name}.{one}\n"
    elif inspect.isroutine(value):
        body += f".. autofunction:: {name}\n"
    else:
        shown = repr(value)
        body += f".. py:data:: {name}\n"
        if len(shown) <= 400 and " at 0x" not in shown:
            body += f"   :value: {shown}\n"
        body += f"\n   {comment_of(name) or type(value).__name__}\n"
    if any(last in text for text in _gallery()):
        body += f"\n.. minigallery:: {name}\n   :add-heading: Gallery\n"
    return body


@functools.cache
def _gallery() -> tuple[str, ...]:
    return tuple(one.read_text() for one in sorted((HERE / "gallery").glob("plot_*.py")))


def as_rst(docstring: str) -> str:
    """Return the docstring of a module with its headings as rubrics, so that a page can hold it."""
    text = re.sub(r"^(\w[\w ]*)\n-{3,}$", r".. rubric:: \1\n", docstring, flags=re.MULTILINE)
    return text + "\n\n"


def _table_of(some: Iterable[str]) -> str:
    body = ".. list-table::\n   :class: names\n   :widths: 40 60\n\n"
    for name in some:
        text = summary(name).replace("\n", " ")
        said = (
            f"{name.removeprefix('featbank.')} <{name}>"
            if name.count(".") > 1 and name in FIRST
            else f"~{name}"
        )
        body += f"   * - :py:obj:`{said}`\n     - {text}\n"
    return body


def room_page(room: str, some: list[str]) -> str:
    """Return the page of a module: what it is, and its names."""
    module = "featbank" if room == "featbank" else f"featbank.{room}"
    said = as_rst(inspect.getdoc(value_of(module)) or "")
    body = titled(module) + f".. py:module:: {module}\n\n{said}"
    body += _table_of(some)
    body += "\n.. toctree::\n   :hidden:\n\n" + "".join(f"   {name}\n" for name in some)
    return body


# commands -----------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command line, such as ``"banks pack"``, with its command, in the order of the help."""
    import typer

    from featbank.cli.app import app

    def walk(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        yield words, command
        for name, one in getattr(command, "commands", {}).items():
            yield from walk(f"{words} {name}".strip(), one)

    for words, command in walk("", typer.main.get_command(app)):
        if words:
            yield words, command


def parameters(command: Any) -> list[Any]:
    """Return arguments and options of a command; ``fit-head`` makes those of heads when it is asked."""
    context = command.context_class(command, info_name=command.name)
    return [one for one in command.get_params(context) if not getattr(one, "hidden", False)]


def _plain(text: str) -> str:
    """Return a help text as reStructuredText: nothing in it is markup."""
    said = (text or "").replace(r"\[", "[")  # as rich wants it
    return re.sub(r"([*`|\\_])", r"\\\1", " ".join(said.split()))


def _first(command: Any) -> str:
    return _plain(inspect.cleandoc(command.help or "").split("\n\n")[0])


def _metavar(one: Any) -> str:
    if one.is_flag:
        return ""
    kind = str(one.type_descriptor.annotation)
    return f" {one.metavar or ('N' if 'int' in kind else 'X' if 'float' in kind else 'TEXT')}"


def command_page(words: str, command: Any) -> str:
    """Return the page of one command in the order of a manual page."""
    help_text = inspect.cleandoc(command.help or "")
    examples = re.findall(r"^Examples?: (.+)$", help_text, re.MULTILINE)
    said = [one for one in help_text.split("\n\n") if not one.startswith("Example")]
    params = parameters(command)
    arguments = [one for one in params if one.param_type_name == "argument"]
    options = [one for one in params if one.param_type_name != "argument"]
    body = titled(f"featbank {words}") + f".. program:: featbank {words}\n\n"
    body += "\n\n".join(_plain(one) for one in said) + "\n\n"
    children = getattr(command, "commands", {})
    shape = " ".join(
        ["featbank", words, *(["COMMAND"] if children else []), "[OPTIONS]"]
        + [
            ("{}" if one.required else "[{}]").format((one.metavar or one.name).strip("[]{}").upper())
            + ("..." if one.nargs == -1 else "")
            for one in arguments
        ]
    )
    body += f".. rubric:: Synopsis\n\n.. code-block:: text\n\n   {shape}\n\n"
    if examples:
        body += ".. rubric:: Examples\n\n.. code-block:: console\n\n"
        body += "".join(f"   $ {one}\n" for one in examples) + "\n"
    if children:
        body += ".. rubric:: Commands\n\n"
        for name, one in children.items():
            body += f":doc:`{name} <{slug(f'{words} {name}')}>`\n    {_first(one)}\n\n"
        body += ".. toctree::\n   :hidden:\n\n"
        body += "".join(f"   {slug(f'{words} {name}')}\n" for name in children) + "\n"
    if arguments:
        body += ".. rubric:: Arguments\n\n"
        for one in arguments:
            default = f" Default: ``{one.default}``." if one.default not in (None, ()) else ""
            body += f"``{(one.metavar or one.name).strip('[]{}')}``\n    {_plain(one.help)}{default}\n\n"
    panels: dict[str, list[Any]] = {}
    for one in options:
        panels.setdefault(getattr(one, "rich_help_panel", None) or "Options", []).append(one)
    for panel, some in panels.items():
        body += f".. rubric:: {panel}\n\n"
        for one in some:
            spelled = [f"{flag}{_metavar(one)}" for flag in [*one.opts, *one.secondary_opts]]
            told = one.default if not callable(one.default) else None
            default = "" if told in (None, False, (), []) else f" Default: ``{told}``."
            body += f".. option:: {', '.join(spelled)}\n\n   {_plain(one.help)}{default}\n\n"
    return body + f".. rubric:: Exit codes\n\n{EXIT_CODES}\n"


def slug(words: str) -> str:
    """Return the name of the page of a command."""
    return "command-" + words.replace(" ", "-")


# studies ------------------------------------------------------------------------------------------

_TABLE = re.compile(r"^(?:# )?(\[+[a-z_.]+\]+)(?:\s+#\s*(.*))?$")
_KEY = re.compile(r"^(?:# )?([a-z_]+) = (.*?)(?:\s{2,}#\s*(.*))?$")
_MORE = re.compile(r"^#?\s{20,}#\s*(.*)$")


def study_keys() -> dict[str, list[list[str]]]:
    """Return the keys of each table of a study, with an example and what it is, as the template says it."""
    from featbank.pipeline import TEMPLATE

    found: dict[str, list[list[str]]] = {"": []}
    table = ""
    for line in TEMPLATE.read_text().splitlines():
        if match := _TABLE.match(line):
            table = match[1]
            found.setdefault(table, [])
        elif (match := _KEY.match(line)) and "." not in match[1]:
            key, example, said = match[1], match[2], match[3] or ""
            rows = found["" if key == "differs" else table]
            if key not in [row[0] for row in rows]:
                rows.append([key, example, said])
        elif (match := _MORE.match(line)) and found[table]:
            found[table][-1][2] += f" {match[1]}"
    return found


def study_page() -> str:
    """Return the page of what the TOML file of a study may say."""
    from featbank import pipeline
    from featbank.pipeline import comparing

    homes = {
        "[data]": pipeline.Data,
        "[test_data]": pipeline.TestData,
        "[backbone]": pipeline.BackboneChoice,
        "[sweep]": pipeline.Sweep,
        "[[training]]": pipeline.Training,
        "[[published.figures]]": pipeline.Figure,
        "[[published.claims]]": pipeline.Claim,
    }
    body = titled("The file of a study")
    body += (
        "``featbank run --template > my.toml`` writes a study with every key in it, and it runs as it is.\n"
        "A key or table that is not on this page is refused in one line that names what is near to it.\n\n"
        "A relative ``source`` is looked for as ``featbank extract`` looks for its data: from the folder\n"
        "the command runs in, beside the TOML file (of a study), and below the data root, the folder that\n"
        '``FEATBANK_DATA`` names, else ``./data``. So ``source = "photos"`` is ``./photos``, or ``photos``\n'
        "beside the file, or ``./data/photos``, the first there is, and\n"
        "``featbank run my.toml --data ~/photos`` says where it is for once.\n"
        "Heads and metrics of your own, ``module:Class`` and ``module:function``, are looked for beside the\n"
        "file, in the folder the command runs in, and among what is installed.\n"
        "A path of ``weights`` is relative to the folder the command runs in;\n"
        "``--weights`` overrides it.\n\n"
    )
    checks = "".join(
        f"``{name}``\n    {_plain(inspect.getdoc(check))}\n\n" for name, check in comparing.CHECKS.items()
    )
    for table, keys in study_keys().items():
        heading = re.sub(r"heads\.\w+", "heads.NAME", table) or "At the top of the file"
        body += f"{heading}\n{'-' * len(heading)}\n\n"
        if table in homes:
            cls = homes[table]
            body += f"Read into :py:obj:`featbank.pipeline.{cls.__name__}`.\n\n"
            defaults = {one.name: one.default for one in dataclasses.fields(cls)}
        else:
            defaults = {}
        if not keys:
            body += "Names a table of the same form; see the template below.\n\n"
            continue
        body += ".. list-table::\n   :header-rows: 1\n   :widths: 22 30 48\n\n"
        body += "   * - key\n     - example\n     - what it is\n"
        for key, example, said in keys:
            default = defaults.get(key, dataclasses.MISSING)
            shown = default not in (dataclasses.MISSING, None, "", ()) and "default" not in said
            tail = f" Default: ``{default}``." if shown else ""
            body += f"   * - ``{key}``\n     - ``{example}``\n     - {_plain(said)}{tail}\n"
        body += "\n"
        if table == "[[published.claims]]":
            body += f".. rubric:: What each check says\n\n{checks}"
    body += "The whole template\n------------------\n\n"
    body += ".. literalinclude:: /../featbank/pipeline/template.toml\n   :language: toml\n"
    return body


# all of it ----------------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """Return every generated page by its file name."""
    found = {}
    by_room = names()
    first_room = sorted(by_room, key=lambda one: one != "featbank")
    for room, some in by_room.items():
        found["featbank.rst" if room == "featbank" else f"featbank.{room}.rst"] = room_page(room, some)
        found |= {f"{name}.rst": page_of(name) for name in some}
    found["python.rst"] = (
        titled("From Python")
        + "Names you need first\n--------------------\n\n"
        + _table_of(FIRST)
        + "\nAll of it\n---------\n\n"
        + "Every public name, by the room of the package that holds it; ``featbank`` has those that belong\n"
        + "to no room. Names that stand as ``featbank.NAME`` are had from ``featbank`` itself.\n\n"
        + ".. toctree::\n   :maxdepth: 1\n\n"
        + "".join(f"   {'featbank' if room == 'featbank' else f'featbank.{room}'}\n" for room in first_room)
    )
    lines = [(words, command) for words, command in commands()]
    found |= {f"{slug(words)}.rst": command_page(words, command) for words, command in lines}
    table = "".join(f":doc:`featbank {words} <{slug(words)}>`\n    {_first(one)}\n\n" for words, one in lines)
    tops = [words for words, _ in lines if " " not in words]
    found["commands.rst"] = (
        titled("Commands")
        + "Every command has ``--json`` (when it succeeds one object on standard output; all else, errors\n"
        + f"too, on standard error) and ``--help``.\n\nExit codes: {EXIT_CODES}\n\n"
        + "``featbank --install-completion`` adds completion to your shell (bash, zsh, fish, PowerShell), "
        + "``--show-completion`` prints it; begin a new shell afterwards.\n\n"
        + table
        + ".. toctree::\n   :hidden:\n\n"
        + "".join(f"   {slug(words)}\n" for words in tops)
    )
    found["study.rst"] = study_page()
    return found


def write(folder: Path) -> None:
    """Write what changed, remove what is no longer there."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for old in folder.iterdir():
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def notebook_of(script: Path) -> list[dict[str, Any]]:
    """Return the cells of a script of the gallery as a notebook has them."""
    from sphinx_gallery import gen_gallery
    from sphinx_gallery.notebook import jupyter_notebook
    from sphinx_gallery.py_source_parser import split_code_and_text_blocks

    _, blocks = split_code_and_text_blocks(str(script))
    made: dict[str, Any] = jupyter_notebook(blocks, {**gen_gallery.DEFAULT_GALLERY_CONF}, script.parent)
    return [{**one, "id": f"cell-{at}"} for at, one in enumerate(made["cells"])]


def write_notebook(script: Path, path: Path) -> None:
    """Write a script of the gallery as a notebook without outputs, if it changed."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    head = {"metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    made = {"cells": notebook_of(script), **head}
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


# what Sphinx asks ---------------------------------------------------------------------------------


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Link a name in a docstring to the page that has it under any name; leave other code as code."""
    from docutils import nodes

    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removesuffix("()")
    domain = env.get_domain("py")
    scopes = [node.get("py:module"), node.get("py:class"), "featbank"]
    scopes.append(".".join(one for one in scopes[:2] if one))
    for candidate in [target, *(f"{scope}.{target}" for scope in scopes if scope)]:
        try:
            value = value_of(candidate)
        except LookupError:
            continue
        for name in _spellings(value, candidate):
            if name in domain.objects:
                there = domain.objects[name]
                return _link(app, node, contnode, there)
    ends = [name for name in domain.objects if name.endswith(f".{target}")]
    if len(ends) == 1:
        return _link(app, node, contnode, domain.objects[ends[0]])
    if target.startswith("featbank.") and target.count(".") > 1:
        try:
            value_of(target)
        except LookupError:
            return None  # the build says so: nothing has this name
    return nodes.literal("", contnode.astext(), classes=["xref"])


def _link(app: Any, node: Any, contnode: Any, there: Any) -> Any:
    from sphinx.util.nodes import make_refnode

    return make_refnode(app.builder, node["refdoc"], there.docname, there.node_id, contnode)


def _spellings(value: Any, candidate: str) -> Iterator[str]:
    yield candidate
    last = candidate.rpartition(".")[2]
    yield f"featbank.{last}"
    module = getattr(value, "__module__", "") or ""
    qualified = getattr(value, "__qualname__", "")
    if isinstance(module, str) and module.startswith("featbank"):
        room = module.split(".")[1] if "." in module else ""
        yield f"featbank.{qualified}"
        yield f"featbank.{room}.{qualified}"


def skip_foreign(app: Any, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """Leave out members that come from other packages, whose text links to pages of theirs."""
    owner = getattr(value, "__objclass__", None)
    module = getattr(owner or (inspect.unwrap(value) if callable(value) else value), "__module__", None)
    if inspect.isbuiltin(value) or (isinstance(module, str) and not module.startswith("featbank")):
        return True
    return None


_CODE = re.compile(r"(``.+?``|`.+?`)")
_STAR, _ENDING = re.compile(r"(?<=[(, ])\*(?=[a-z])"), re.compile(r"(?<=\w)_(?=[\s,;.)]|$)")


def escape(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Escape what looks like markup in a docstring and is none: ``(n, *shape)``, ``classes_``."""
    in_example = False
    for number, line in enumerate(lines):
        in_example = line.strip().startswith(">>>") or (in_example and bool(line.strip()))
        if not in_example:
            parts = _CODE.split(line)
            parts[::2] = [_ENDING.sub(r"\\_", _STAR.sub(r"\\*", one)) for one in parts[::2]]
            lines[number] = "".join(parts)


def display_scraper(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Show the displays that a block drew: their figures stand outside pyplot, where nobody else looks."""
    from sphinx_gallery.scrapers import figure_rst

    paths, titles = [], []
    for one in block_vars["example_globals"].values():
        if hasattr(one, "figure_") and not getattr(one, "is_shown_", False):
            paths.append(next(block_vars["image_path_iterator"]))
            one.save(paths[-1])
            one.is_shown_ = True
            titles.append(one._noun.removeprefix("a ").removeprefix("an "))
    return figure_rst(paths, gallery_conf["src_dir"], ", ".join(titles)) if paths else ""
