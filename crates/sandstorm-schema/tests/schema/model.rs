//! A compiled schema as the compiler reports it, with names resolved.

use std::collections::HashMap;
use std::path::Path;

use capnp::message::{Reader, ReaderOptions};
use capnp::schema_capnp::{brand, code_generator_request, node, type_, value};
use capnp::serialize::OwnedSegments;

/// Type id of `StreamResult`, which a method declared `-> stream` returns.
const STREAM_RESULT: u64 = 0x995f_9a33_77c0_b16e;

pub struct Schema {
    message: Reader<OwnedSegments>,
}

impl Schema {
    /// Compiles all files of the directory `part` of `dir`. The error is what the compiler said.
    pub fn compile(dir: &Path, part: &str) -> Result<Schema, String> {
        let mut args = vec!["compile".into(), "-o-".into()];
        args.push(format!("-I{}", dir.display()).into());
        args.push(format!("--src-prefix={}", dir.join(part).display()).into());
        args.extend(super::schema_files(&dir.join(part)).into_iter().map(Into::into));
        let output = super::capnp::<std::ffi::OsString>(args);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let options = ReaderOptions { traversal_limit_in_words: None, ..Default::default() };
        let message = capnp::serialize::read_message(output.stdout.as_slice(), options);
        Ok(Schema { message: message.map_err(|e| e.to_string())? })
    }

    pub fn nodes(&self) -> Nodes<'_> {
        let request = self.message.get_root::<code_generator_request::Reader<'_>>().unwrap();
        let by_id: HashMap<u64, node::Reader<'_>> =
            request.get_nodes().unwrap().iter().map(|node| (node.get_id(), node)).collect();
        let files = request.get_requested_files().unwrap();
        Nodes { files: files.iter().map(|file| file.get_id()).collect(), by_id }
    }
}

pub struct Nodes<'a> {
    /// The files that were asked for, not those that they import.
    pub files: Vec<u64>,
    pub by_id: HashMap<u64, node::Reader<'a>>,
}

impl<'a> Nodes<'a> {
    /// Everything declared in a file, the file itself first, in order of declaration. Groups and
    /// the unnamed structs of parameters are not among them.
    pub fn below(&self, id: u64) -> Vec<node::Reader<'a>> {
        let Some(&node) = self.by_id.get(&id) else { return Vec::new() };
        let mut all = vec![node];
        for nested in node.get_nested_nodes().unwrap() {
            all.extend(self.below(nested.get_id()));
        }
        all
    }

    /// `grain.capnp`.
    pub fn file_name(&self, file: u64) -> String {
        let name = self.by_id[&file].get_display_name().unwrap().to_string().unwrap();
        name.rsplit('/').next().unwrap().to_owned()
    }

    /// `UiView.ViewInfo`: the name below the file.
    pub fn name(&self, id: u64) -> String {
        let name = self.by_id[&id].get_display_name().unwrap().to_string().unwrap();
        name.split_once(':').map_or(String::new(), |(_, name)| name.to_owned())
    }

    /// Names of a declaration's generic parameters, `(A, B)`, or nothing.
    pub fn parameters(&self, node: node::Reader<'_>) -> String {
        let parameters = node.get_parameters().unwrap();
        let names: Vec<String> =
            parameters.iter().map(|p| p.get_name().unwrap().to_string().unwrap()).collect();
        if names.is_empty() { String::new() } else { format!("({})", names.join(", ")) }
    }

    /// A type's name with whatever its brand binds: `Assignable.Getter(List(Bool))`.
    pub fn branded(&self, id: u64, brand: brand::Reader<'_>) -> String {
        let mut bound = Vec::new();
        for scope in brand.get_scopes().unwrap() {
            if let brand::scope::Bind(bindings) = scope.which().unwrap() {
                for binding in bindings.unwrap() {
                    if let brand::binding::Type(of) = binding.which().unwrap() {
                        bound.push(self.type_name(of.unwrap()));
                    }
                }
            }
        }
        let name = self.name(id);
        if bound.is_empty() { name } else { format!("{name}({})", bound.join(", ")) }
    }

    pub fn type_name(&self, of: type_::Reader<'_>) -> String {
        use type_::any_pointer::{self, unconstrained};
        let plain = match of.which().unwrap() {
            type_::Void(()) => "Void",
            type_::Bool(()) => "Bool",
            type_::Int8(()) => "Int8",
            type_::Int16(()) => "Int16",
            type_::Int32(()) => "Int32",
            type_::Int64(()) => "Int64",
            type_::Uint8(()) => "UInt8",
            type_::Uint16(()) => "UInt16",
            type_::Uint32(()) => "UInt32",
            type_::Uint64(()) => "UInt64",
            type_::Float32(()) => "Float32",
            type_::Float64(()) => "Float64",
            type_::Text(()) => "Text",
            type_::Data(()) => "Data",
            type_::List(list) => {
                return format!("List({})", self.type_name(list.get_element_type().unwrap()));
            }
            type_::Enum(of) => return self.branded(of.get_type_id(), of.get_brand().unwrap()),
            type_::Struct(of) => return self.branded(of.get_type_id(), of.get_brand().unwrap()),
            type_::Interface(of) => return self.branded(of.get_type_id(), of.get_brand().unwrap()),
            type_::AnyPointer(any) => match any.which().unwrap() {
                any_pointer::Unconstrained(kind) => match kind.which().unwrap() {
                    unconstrained::AnyKind(()) => "AnyPointer",
                    unconstrained::Struct(()) => "AnyStruct",
                    unconstrained::List(()) => "AnyList",
                    unconstrained::Capability(()) => "Capability",
                },
                any_pointer::Parameter(parameter) => {
                    let owner = self.by_id[&parameter.get_scope_id()];
                    let index = u32::from(parameter.get_parameter_index());
                    let parameter = owner.get_parameters().unwrap().get(index);
                    return parameter.get_name().unwrap().to_string().unwrap();
                }
                any_pointer::ImplicitMethodParameter(_) => "a method's own parameter",
            },
        };
        plain.to_owned()
    }

    /// Parameters or results of a method: a list with defaults, or the name of a struct.
    pub fn arguments(&self, id: u64, brand: brand::Reader<'_>) -> String {
        if id == STREAM_RESULT {
            return "StreamResult".to_owned();
        }
        let node = self.by_id[&id];
        if node.get_scope_id() != 0 {
            return self.branded(id, brand);
        }
        let node::Struct(of) = node.which().unwrap() else { panic!("arguments are a struct") };
        let mut list = Vec::new();
        for field in of.get_fields().unwrap() {
            let capnp::schema_capnp::field::Slot(slot) = field.which().unwrap() else {
                panic!("arguments have no groups")
            };
            let mut text = format!(
                "{} :{}",
                field.get_name().unwrap().to_str().unwrap(),
                self.type_name(slot.get_type().unwrap()),
            );
            if slot.get_had_explicit_default() {
                text += &format!(" = {}", value_text(slot.get_default_value().unwrap()));
            }
            list.push(text);
        }
        format!("({})", list.join(", "))
    }
}

/// A value in the tables' notation, which is Python's. Values that the tables leave out are empty.
pub fn value_text(of: value::Reader<'_>) -> String {
    match of.which().unwrap() {
        value::Void(()) => String::new(),
        value::Bool(b) => if b { "True" } else { "False" }.to_owned(),
        value::Int8(n) => n.to_string(),
        value::Int16(n) => n.to_string(),
        value::Int32(n) => n.to_string(),
        value::Int64(n) => n.to_string(),
        value::Uint8(n) => n.to_string(),
        value::Uint16(n) | value::Enum(n) => n.to_string(),
        value::Uint32(n) => n.to_string(),
        value::Uint64(n) => n.to_string(),
        value::Float32(n) => format!("{n:?}"),
        value::Float64(n) => format!("{n:?}"),
        value::Text(text) => text.unwrap().to_string().unwrap(),
        value::Data(data) => {
            let escape = |&byte: &u8| match byte {
                b'\\' | b'\'' => format!("\\{}", char::from(byte)),
                b' '..=b'~' => char::from(byte).to_string(),
                other => format!("\\x{other:02x}"),
            };
            format!("b'{}'", data.unwrap().iter().map(escape).collect::<String>())
        }
        value::List(_) | value::Struct(_) | value::Interface(()) | value::AnyPointer(_) => {
            String::new()
        }
    }
}

/// Whether a value is what an unset field reads as.
pub fn is_zero(of: value::Reader<'_>) -> bool {
    match of.which().unwrap() {
        value::Bool(b) => !b,
        value::Float32(n) => n.to_bits() == 0,
        value::Float64(n) => n.to_bits() == 0,
        value::Text(text) => text.unwrap().is_empty(),
        value::Data(data) => data.unwrap().is_empty(),
        value::Void(()) | value::Interface(()) => true,
        value::List(list) | value::Struct(list) | value::AnyPointer(list) => {
            list.target_size().unwrap().word_count == 0
        }
        _ => value_text(of) == "0",
    }
}
