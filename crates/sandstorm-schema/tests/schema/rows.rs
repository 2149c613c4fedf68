//! A compiled schema as rows of the tables in `tests/wire`. Three notations: `wire.tsv` (interfaces
//! for apps), `supervisor.tsv` (system interfaces), and `details.tsv` (ours: what the other two
//! leave out, namely where union tags lie, lists of constants, and what annotations apply to and
//! say).

use capnp::schema_capnp::{annotation, enumerant, field, node, type_, value};

use super::model::{Nodes, is_zero, value_text};

/// One table's notation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Notation {
    Wire,
    System,
}

/// File names of the system interfaces.
const SYSTEM_FILES: [&str; 1] = ["supervisor.capnp"];

/// Rows of `wire.tsv`, without its heading, in no order.
pub fn wire(nodes: &Nodes<'_>) -> Vec<String> {
    rows(nodes, Notation::Wire)
}

/// Rows of `supervisor.tsv`.
pub fn system(nodes: &Nodes<'_>) -> Vec<String> {
    rows(nodes, Notation::System)
}

fn rows(nodes: &Nodes<'_>, notation: Notation) -> Vec<String> {
    let mut writer = Writer { nodes, notation, file: String::new(), rows: Vec::new() };
    for &id in &nodes.files {
        writer.file = nodes.file_name(id);
        let is_system = SYSTEM_FILES.contains(&writer.file.as_str());
        if is_system == (notation == Notation::System) {
            for node in nodes.below(id) {
                writer.node(node);
            }
        }
    }
    writer.rows
}

struct Writer<'a> {
    nodes: &'a Nodes<'a>,
    notation: Notation,
    file: String,
    rows: Vec<String>,
}

impl Writer<'_> {
    fn row(&mut self, id: u64, kind: &str, name: &str, ordinal: &str, of: &str, layout: &str) {
        let row = format!("{}\t{id:#018x}\t{kind}\t{name}\t{ordinal}\t{of}\t{layout}", self.file);
        self.rows.push(row);
    }

    fn node(&mut self, node: node::Reader<'_>) {
        let id = node.get_id();
        let name = self.nodes.name(id);
        let parameters = self.nodes.parameters(node);
        match node.which().unwrap() {
            // The tables give the system files no id.
            node::File(()) if self.notation == Notation::System => {}
            node::File(()) => self.row(id, "file", &self.file.clone(), "", "", ""),
            node::Struct(of) => {
                let (data, pointers) = (of.get_data_word_count(), of.get_pointer_count());
                match self.notation {
                    Notation::Wire => {
                        let layout = format!("{data} data words, {pointers} pointers");
                        self.row(id, "struct", &format!("{name}{parameters}"), "", "", &layout);
                    }
                    Notation::System => {
                        let layout = format!("{} bytes, {pointers} ptrs", data * 8);
                        self.row(id, "struct", &name, "", &parameters, &layout);
                    }
                }
                self.fields(id, &name, of);
            }
            node::Enum(of) => {
                self.row(id, "enum", &name, "", "", "");
                for (ordinal, enumerant) in of.get_enumerants().unwrap().iter().enumerate() {
                    let name = format!("{name}.{}", enumerant_name(enumerant));
                    self.row(id, "enumerant", &name, &format!("@{ordinal}"), "", "");
                }
            }
            node::Interface(of) => self.interface(id, &name, &parameters, of),
            node::Const(of) => {
                let value = value_text(of.get_value().unwrap());
                let of = self.nodes.type_name(of.get_type().unwrap());
                self.row(id, "const", &name, "", &of, &value);
            }
            node::Annotation(of) => {
                let of = self.nodes.type_name(of.get_type().unwrap());
                self.row(id, "annotation", &name, "", &of, "");
            }
        }
    }

    fn interface(
        &mut self,
        id: u64,
        name: &str,
        parameters: &str,
        of: node::interface::Reader<'_>,
    ) {
        let extends: Vec<String> = of
            .get_superclasses()
            .unwrap()
            .iter()
            .map(|s| self.nodes.branded(s.get_id(), s.get_brand().unwrap()))
            .collect();
        let extends = extends.join(", ");
        match self.notation {
            _ if extends.is_empty() => {
                self.row(id, "interface", &format!("{name}{parameters}"), "", "", "");
            }
            Notation::Wire => {
                let (name, extends) = (format!("{name}{parameters}"), format!("extends {extends}"));
                self.row(id, "interface", &name, "", &extends, "");
            }
            Notation::System => {
                self.row(id, "interface", name, "", &format!("extends({extends})"), "");
            }
        }
        for (ordinal, method) in of.get_methods().unwrap().iter().enumerate() {
            let (params, results) = (method.get_param_brand(), method.get_result_brand());
            let mut text = format!(
                "{} -> {}",
                self.nodes.arguments(method.get_param_struct_type(), params.unwrap()),
                self.nodes.arguments(method.get_result_struct_type(), results.unwrap()),
            );
            if self.notation == Notation::System {
                // There a type is called as it would be inside its interface.
                text = text.replace(&format!(":{name}."), ":");
            }
            let name = format!("{name}.{}", method.get_name().unwrap().to_str().unwrap());
            self.row(id, "method", &name, &format!("@{ordinal}"), &text, "");
        }
    }

    /// Fields of a struct or group; those of groups stand under the struct's id.
    fn fields(&mut self, id: u64, prefix: &str, of: node::struct_::Reader<'_>) {
        if self.notation == Notation::System && of.get_discriminant_count() > 0 {
            let at = of.get_discriminant_offset() * 16;
            self.row(id, "union", prefix, "", "", &format!("tag bits [{at}, {})", at + 16));
        }
        for field in of.get_fields().unwrap() {
            let name = format!("{prefix}.{}", field.get_name().unwrap().to_str().unwrap());
            let tag = field.get_discriminant_value();
            let tag = (tag != field::NO_DISCRIMINANT).then_some(tag);
            match field.which().unwrap() {
                field::Slot(slot) => {
                    let field::ordinal::Explicit(ordinal) = field.get_ordinal().which().unwrap()
                    else {
                        panic!("{name} has no ordinal")
                    };
                    let layout = self.place(slot, tag);
                    let of = self.nodes.type_name(slot.get_type().unwrap());
                    self.row(id, "field", &name, &format!("@{ordinal}"), &of, &layout);
                }
                field::Group(group) => {
                    let (ordinal, of, layout) = match (self.notation, tag) {
                        (Notation::Wire, Some(tag)) => ("-", "", format!("union tag {tag}")),
                        (Notation::Wire, None) => ("-", "", String::new()),
                        (Notation::System, Some(tag)) => ("", "", format!("union tag = {tag}")),
                        (Notation::System, None) => ("", "", String::new()),
                    };
                    self.row(id, "group", &name, ordinal, of, &layout);
                    let group = self.nodes.by_id[&group.get_type_id()];
                    let node::Struct(of) = group.which().unwrap() else { panic!("{name}") };
                    self.fields(id, &name, of);
                }
            }
        }
    }

    fn place(&self, slot: field::slot::Reader<'_>, tag: Option<u16>) -> String {
        let offset = slot.get_offset();
        let default = slot.get_default_value().unwrap();
        match self.notation {
            Notation::Wire => {
                let mut text = format!("offset {offset}");
                if let Some(tag) = tag {
                    text += &format!("; union tag {tag}");
                }
                // `wire.tsv` has the default of every Data.
                if !is_zero(default) || matches!(default.which(), Ok(value::Data(_))) {
                    text += &format!("; default {}", value_text(default));
                }
                text
            }
            Notation::System => {
                let mut text = match bits(slot.get_type().unwrap()) {
                    Some(0) => "bits[0, 0)".to_owned(),
                    Some(size) => format!("bits[{}, {})", offset * size, (offset + 1) * size),
                    None => format!("ptr[{offset}]"),
                };
                if let Some(tag) = tag {
                    text += &format!(", union tag = {tag}");
                }
                text
            }
        }
    }
}

/// Size of a type in the data section; `None` for a pointer.
fn bits(of: type_::Reader<'_>) -> Option<u32> {
    match of.which().unwrap() {
        type_::Void(()) => Some(0),
        type_::Bool(()) => Some(1),
        type_::Int8(()) | type_::Uint8(()) => Some(8),
        type_::Int16(()) | type_::Uint16(()) | type_::Enum(_) => Some(16),
        type_::Int32(()) | type_::Uint32(()) | type_::Float32(()) => Some(32),
        type_::Int64(()) | type_::Uint64(()) | type_::Float64(()) => Some(64),
        _ => None,
    }
}

fn enumerant_name(of: enumerant::Reader<'_>) -> String {
    of.get_name().unwrap().to_string().unwrap()
}

/// Rows of `details.tsv`.
pub fn details(nodes: &Nodes<'_>) -> Vec<String> {
    let mut rows = Vec::new();
    for &file in &nodes.files {
        for node in nodes.below(file) {
            let name = nodes.name(node.get_id());
            match node.which().unwrap() {
                node::Struct(of) => tag_places(nodes, &name, of, &mut rows),
                node::Enum(of) => {
                    for enumerant in of.get_enumerants().unwrap() {
                        let name = format!("{name}.{}", enumerant_name(enumerant));
                        for annotation in enumerant.get_annotations().unwrap() {
                            rows.push(format!("annotated\t{name}\t{}", applied(nodes, annotation)));
                        }
                    }
                }
                node::Const(of) => {
                    let value::List(list) = of.get_value().unwrap().which().unwrap() else {
                        continue;
                    };
                    let texts = list.get_as::<capnp::text_list::Reader<'_>>().unwrap();
                    let texts: Vec<String> =
                        texts.iter().map(|t| t.unwrap().to_string().unwrap()).collect();
                    rows.push(format!("list\t{name}\t{}", texts.join(" ")));
                }
                node::Annotation(of) => {
                    let targets = [
                        ("file", of.get_targets_file()),
                        ("const", of.get_targets_const()),
                        ("enum", of.get_targets_enum()),
                        ("enumerant", of.get_targets_enumerant()),
                        ("struct", of.get_targets_struct()),
                        ("field", of.get_targets_field()),
                        ("union", of.get_targets_union()),
                        ("group", of.get_targets_group()),
                        ("interface", of.get_targets_interface()),
                        ("method", of.get_targets_method()),
                        ("param", of.get_targets_param()),
                        ("annotation", of.get_targets_annotation()),
                    ];
                    let targets: Vec<&str> =
                        targets.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
                    rows.push(format!("targets\t{name}\t{}", targets.join(" ")));
                }
                node::File(()) | node::Interface(_) => {}
            }
        }
    }
    rows
}

fn tag_places(
    nodes: &Nodes<'_>,
    name: &str,
    of: node::struct_::Reader<'_>,
    rows: &mut Vec<String>,
) {
    if of.get_discriminant_count() > 0 {
        rows.push(format!("tag\t{name}\tbyte {}", of.get_discriminant_offset() * 2));
    }
    for field in of.get_fields().unwrap() {
        if let field::Group(group) = field.which().unwrap() {
            let name = format!("{name}.{}", field.get_name().unwrap().to_str().unwrap());
            let node = nodes.by_id[&group.get_type_id()];
            let node::Struct(of) = node.which().unwrap() else { panic!("{name}") };
            tag_places(nodes, &name, of, rows);
        }
    }
}

/// `osiInfo: id=MIT title=MIT License requireSource=False`.
fn applied(nodes: &Nodes<'_>, of: annotation::Reader<'_>) -> String {
    use sandstorm_schema::package_capnp::{category_info, osi_license_info};
    use sandstorm_schema::web_session_capnp::http_status_descriptor;
    let value::Struct(value) = of.get_value().unwrap().which().unwrap() else {
        panic!("an annotation with a value that is no struct")
    };
    let name = nodes.name(of.get_id());
    let value = match name.as_str() {
        "httpStatus" => {
            let of: http_status_descriptor::Reader<'_> = value.get_as().unwrap();
            format!("id={} title={}", of.get_id(), of.get_title().unwrap().to_str().unwrap())
        }
        "categoryInfo" => {
            let of: category_info::Reader<'_> = value.get_as().unwrap();
            format!("title={}", of.get_title().unwrap().to_str().unwrap())
        }
        "osiInfo" => {
            let of: osi_license_info::Reader<'_> = value.get_as().unwrap();
            format!(
                "id={} title={} requireSource={}",
                of.get_id().unwrap().to_str().unwrap(),
                of.get_title().unwrap().to_str().unwrap(),
                of.get_require_source(),
            )
        }
        other => panic!("unknown annotation {other}: teach this test to read it"),
    };
    format!("{name}: {value}")
}
