#!/usr/bin/env python3
"""Writes a Cap'n Proto schema from the tables of the wire format.

    wire_to_capnp.py WIRE.tsv [SUPERVISOR.tsv...] > wire.capnp

The programs of this directory speak to Sandstorm through that schema, so that they share nothing
with `/schema` but the facts. All declarations of all files land in one file: names are unique
across files, and file names do not matter on the wire. A method that is declared `-> stream`
returns an empty struct here, which is what it returns on the wire.
"""

import ast
import re
import sys

# Any id: the file itself is never named on the wire.
FILE_ID = "0xa63ae6a1e77c3a0f"

# Not in the tables: the standard interface that SystemPersistent extends.
PERSISTENT = """
interface Persistent @0xc8cb212fcd9f5691 (SturdyRef, Owner) {
  struct SaveParams { sealFor @0 :Owner; }
  struct SaveResults { sturdyRef @0 :SturdyRef; }
  save @0 SaveParams -> SaveResults;
}
"""

# Lists have no value in the tables, and no reader needs one.
NO_VALUE = object()


class Declaration:
    """A struct, enum, interface, constant or annotation, with what is declared inside it."""

    def __init__(self, kind, name, type_id, parameters, extends, of, value):
        self.kind, self.name, self.type_id = kind, name, type_id
        self.parameters, self.extends, self.of, self.value = parameters, extends, of, value
        self.members, self.nested = [], []


class Group:
    """A group or union of fields; the root of a struct is one too."""

    def __init__(self, name, tag):
        self.name, self.tag, self.fields = name, tag, []

    def ordinal(self):
        return min(field.ordinal() for field in self.fields)


class Field:
    def __init__(self, name, number, of, tag, default):
        self.name, self.number, self.of, self.tag, self.default = name, number, of, tag, default

    def ordinal(self):
        return self.number


def rows(paths):
    for path in paths:
        with open(path, encoding="utf-8") as table:
            next(table)
            for line in table:
                cells = line.rstrip("\n").split("\t")
                yield cells + [""] * (7 - len(cells))


def tag_in(*cells):
    for cell in cells:
        if found := re.search(r"union tag (?:= )?(\d+)", cell):
            return int(found[1])
    return None


def read(paths):
    """The top-level declarations, in the tables' order."""
    by_name, by_id, top = {}, {}, []
    for _, type_id, kind, name, ordinal, of, layout in rows(paths):
        if kind in ("file", "union"):
            continue
        if kind in ("field", "group", "method", "enumerant"):
            by_id[type_id].members.append((kind, name, ordinal, of, layout))
            continue
        name, _, parameters = name.partition("(")
        parameters = f"({parameters}" if parameters else ""
        extends = next((cell for cell in (of, layout) if cell.startswith("extends")), "")
        extends = re.sub(r"^extends *\(?(.*?)\)?$", r"\1", extends)
        if extends.count("(") > extends.count(")"):
            extends += ")"
        if kind == "struct" and of.startswith("("):
            parameters = of
        new = Declaration(kind, name, type_id, parameters, extends, of, layout or NO_VALUE)
        if name in by_name:
            raise SystemExit(f"{name} is declared twice")
        by_name[name] = by_id[type_id] = new
        outer, _, _ = name.rpartition(".")
        (by_name[outer].nested if outer else top).append(new)
    return top


def spelled(of):
    """A type or argument list in the schema language instead of the tables' notation."""
    of = of.replace("-> StreamResult", "-> ()").replace("= False", "= false").replace("= True", "= true")
    # `Outer.Inner(X)` in the tables binds the outer one's parameter.
    return of.replace("Assignable.Getter(List(Bool))", "Assignable(List(Bool)).Getter")


def fields_of(struct):
    groups = {"": Group("", None)}
    fields = []
    for kind, name, ordinal, of, layout in struct.members:
        path = name[len(struct.name) + 1 :]
        outer, _, last = path.rpartition(".")
        if kind == "group":
            groups[path] = Group(last, tag_in(of, layout))
            fields.append((outer, groups[path]))
        else:
            default = re.search(r"default (.*)$", layout)
            default = default[1] if default and default[1] != "b''" else None
            fields.append((outer, Field(last, int(ordinal[1:]), of, tag_in(layout), default)))
    for outer, field in fields:
        groups[outer].fields.append(field)
    return groups[""]


def write_fields(group, indent, out):
    # A union's tag takes its place when its second member does, so order is by ordinal throughout.
    plain = sorted((f for f in group.fields if f.tag is None), key=lambda f: f.ordinal())
    tagged = sorted((f for f in group.fields if f.tag is not None), key=lambda f: f.tag)
    for field in plain:
        write_field(field, indent, out)
    if tagged:
        out.append(f"{indent}union {{")
        for field in tagged:
            write_field(field, indent + "  ", out)
        out.append(f"{indent}}}")


def write_field(field, indent, out):
    if isinstance(field, Group):
        out.append(f"{indent}{field.name} :group {{")
        write_fields(field, indent + "  ", out)
        out.append(f"{indent}}}")
    else:
        default = f" = {field.default}" if field.default else ""
        out.append(f"{indent}{field.name} @{field.number} :{spelled(field.of)}{default};")


def write(declaration, indent, out):
    d, name = declaration, declaration.name.rpartition(".")[2]
    if d.kind == "const":
        if d.of == "UInt64":
            out.append(f"{indent}const {name} @{d.type_id} :UInt64 = {d.value};")
        elif d.of == "Data":
            value = ast.literal_eval(d.value).hex()
            out.append(f'{indent}const {name} @{d.type_id} :Data = 0x"{value}";')
        return
    if d.kind == "annotation":
        out.append(f"{indent}annotation {name} @{d.type_id} (enumerant) :{d.of};")
        return
    extends = f" extends({d.extends})" if d.extends else ""
    out.append(f"{indent}{d.kind} {name} @{d.type_id} {d.parameters}{extends} {{")
    inner = indent + "  "
    if d.kind == "struct":
        write_fields(fields_of(d), inner, out)
    else:
        for _, member, ordinal, of, _ in d.members:
            member = member.rpartition(".")[2]
            of = f" {spelled(of)}" if d.kind == "interface" else ""
            out.append(f"{inner}{member} {ordinal}{of};")
    for nested in d.nested:
        write(nested, inner, out)
    out.append(f"{indent}}}")


def schema(paths):
    out = [f"@{FILE_ID};", PERSISTENT]
    for declaration in read(paths):
        write(declaration, "", out)
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    sys.stdout.write(schema(sys.argv[1:]))
