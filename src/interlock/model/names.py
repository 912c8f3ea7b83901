"""Names that a piece of Python reads before it binds them, in the order of its statements."""

import ast
import builtins
from collections.abc import Iterable

_GIVEN = frozenset(dir(builtins)) | {"get_ipython", "display", "In", "Out", "_", "__", "__file__", "__name__"}
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Reading(ast.NodeVisitor):
    """Follows statements in order. ``free``: read before they were bound; ``bound``: bound at top level.

    The body of a function runs when it is called: what it reads counts as free only when nothing binds it at all. Both
    arms of an ``if`` count as run.
    """

    def __init__(self) -> None:
        self.bound: dict[str, None] = {}
        self._read: dict[str, None] = {}
        self._late: dict[str, None] = {}

    @property
    def free(self) -> tuple[str, ...]:
        """Names asked for from outside, in order."""
        late = [name for name in self._late if name not in self.bound and name not in _GIVEN]
        return tuple(dict.fromkeys([*self._read, *late]))

    def read(self, body: Iterable[ast.stmt]) -> "Reading":
        """Follow these statements after those before."""
        for node in body:
            self.visit(node)
        return self

    def visit_Name(self, node: ast.Name) -> None:
        """Bind or read a name."""
        if isinstance(node.ctx, ast.Store):
            self.bound[node.id] = None
        elif node.id not in self.bound and node.id not in _GIVEN:
            self._read[node.id] = None

    def visit_Assign(self, node: ast.Assign) -> None:
        """Read the value, then bind."""
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Read the value, then bind; a bare annotation does neither."""
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Read and bind."""
        if isinstance(node.target, ast.Name):
            self.visit_Name(ast.Name(id=node.target.id, ctx=ast.Load()))
        self.visit(node.value)
        self.visit(node.target)

    def visit_For(self, node: ast.For) -> None:
        """Read what is looped over, bind the variable, follow the body."""
        self.visit(node.iter)
        self.visit(node.target)
        self.read([*node.body, *node.orelse])

    def visit_Import(self, node: ast.Import) -> None:
        """Bind what is imported."""
        for alias in node.names:
            self.bound[(alias.asname or alias.name).partition(".")[0]] = None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Bind what is imported."""
        for alias in node.names:
            self.bound[alias.asname or alias.name] = None

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """Bind the exception."""
        if node.name:
            self.bound[node.name] = None
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Read decorators and defaults now, the body later."""
        for item in (*node.decorator_list, *node.args.defaults, *(v for v in node.args.kw_defaults if v is not None)):
            self.visit(item)
        self.bound[node.name] = None
        self._later(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Read the body later."""
        self._later(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Read decorators and bases now, the body later."""
        for item in (*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)):
            self.visit(item)
        self.bound[node.name] = None
        self._later(node)

    def _later(self, node: ast.AST) -> None:
        self._late |= dict.fromkeys(_free_in(node))

    def generic_visit(self, node: ast.AST) -> None:
        """Comprehensions have variables of their own; everything else is followed in order."""
        if isinstance(node, _COMPREHENSIONS):
            for name in _free_in(node):
                self.visit_Name(ast.Name(id=name, ctx=ast.Load()))
        else:
            super().generic_visit(node)


def _free_in(scope: ast.AST) -> list[str]:
    """Names that a function, class or comprehension reads and does not bind itself."""
    own: set[str] = set()
    read: dict[str, None] = {}
    shared: set[str] = set()
    for node in ast.walk(scope):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                read[node.id] = None
            else:
                own.add(node.id)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.Global):
            shared |= set(node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            own |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node is not scope:
            own.add(node.name)
    return [name for name in read if name not in own - shared]
