//! JSON that can be read in one way only.

use std::cell::Cell;
use std::fmt;

use serde::de::DeserializeSeed;
use serde::de::Error;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;
use serde_json::Map;
use serde_json::Value;

/// How deep objects and arrays may lie in each other. A bundle needs four, a token's claims rarely more than three.
pub const MAX_DEPTH: u8 = 8;

/// Why bytes are not JSON that can be read in one way only. Repeats nothing of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    /// More bytes than the caller takes.
    #[error("it has more than {limit} bytes")]
    TooLarge {
        /// How many are taken.
        limit: usize,
    },
    /// Not JSON: a byte order mark, text after the end, and bytes that are not UTF-8 included.
    #[error("it is not JSON at line {line}, column {column}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// An object has a name twice.
    #[error("an object has a name twice at line {line}, column {column}")]
    DuplicateName {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Deeper than [`MAX_DEPTH`].
    #[error("it is nested deeper than {MAX_DEPTH} at line {line}, column {column}")]
    TooDeep {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("it is not a JSON object")]
    NotAnObject,
}

/// Reads an object of at most `limit` bytes.
///
/// SECURITY: two readers of one document must not see two documents. Most parsers keep the last of two equal names, some
/// the first; so an object with a name twice, at any depth, is refused (RFC 7515 §4, RFC 7519 §4).
///
/// # Errors
/// [`InvalidJson`]
pub fn object(bytes: &[u8], limit: usize) -> Result<Map<String, Value>, InvalidJson> {
    match value(bytes, limit)? {
        Value::Object(object) => Ok(object),
        _ => Err(InvalidJson::NotAnObject),
    }
}

fn value(bytes: &[u8], limit: usize) -> Result<Value, InvalidJson> {
    if bytes.len() > limit {
        return Err(InvalidJson::TooLarge { limit });
    }
    let fault = Cell::new(Fault::Syntax);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Strict { depth_left: MAX_DEPTH, fault: &fault }.deserialize(&mut reader);
    read.and_then(|value| reader.end().map(|()| value)).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        match fault.get() {
            Fault::Syntax => InvalidJson::Syntax { line, column },
            Fault::Duplicate => InvalidJson::DuplicateName { line, column },
            Fault::Depth => InvalidJson::TooDeep { line, column },
        }
    })
}

#[derive(Clone, Copy)]
enum Fault {
    Syntax,
    Duplicate,
    Depth,
}

/// Builds a [`Value`], refusing what [`value`] refuses.
#[derive(Clone, Copy)]
struct Strict<'f> {
    depth_left: u8,
    fault: &'f Cell<Fault>,
}

impl Strict<'_> {
    fn refuse<T, E: Error>(self, fault: Fault) -> Result<T, E> {
        self.fault.set(fault);
        Err(E::custom("refused"))
    }

    fn inside<E: Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left, ..self }),
            None => self.refuse(Fault::Depth),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(inside)? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return self.refuse(Fault::Duplicate);
            }
            let value = members.next_value_seed(inside)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 4096;

    fn read(text: &str) -> Result<Map<String, Value>, InvalidJson> {
        object(text.as_bytes(), LIMIT)
    }

    #[test]
    fn a_name_twice_is_refused_at_any_depth_and_however_it_is_escaped() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":{"c":1,"c":2}}"#,
            r#"{"keys":[{"x":1},{"y":[{"z":1,"z":2}]}]}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"":1,"":2}"#,
        ] {
            assert!(matches!(read(text), Err(InvalidJson::DuplicateName { line: 1, .. })), "{text}");
        }
        assert!(read(r#"{"a":{"x":1},"b":{"x":1}}"#).is_ok(), "the same name in two objects is two names");
    }

    #[test]
    fn a_text_that_is_not_exactly_one_json_value_is_refused() {
        for bytes in [
            &b""[..],
            b"{",
            b"{}{}",
            b"{} x",
            b"\xef\xbb\xbf{}",
            b"{\"a\":\"\xff\"}",
            b"{\x00\"\x00}\x00",
            b"{\"a\":1e400}",
            b"{\"a\":01}",
            b"{\"a\":NaN}",
            b"{\"a\":1,}",
            b"{'a':1}",
            b"{\"a\":\"\n\"}",
            b"{} // comment",
        ] {
            assert!(matches!(object(bytes, LIMIT), Err(InvalidJson::Syntax { .. })), "{bytes:?}");
        }
        assert!(read(" \r\n\t{} ").is_ok(), "white space around it is JSON");
    }

    #[test]
    fn only_an_object_is_an_object() {
        for text in ["[]", "1", "null", "\"{}\"", "true"] {
            assert_eq!(read(text), Err(InvalidJson::NotAnObject), "{text}");
        }
    }

    #[test]
    fn the_limits_are_the_limits() {
        let nested = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        assert!(read(&nested(usize::from(MAX_DEPTH))).is_ok());
        assert!(matches!(read(&nested(usize::from(MAX_DEPTH) + 1)), Err(InvalidJson::TooDeep { .. })));
        assert!(matches!(read(&format!("{{\"a\":{}", "[".repeat(4000))), Err(InvalidJson::TooDeep { .. })));
        assert!(object(b"{\"a\":1}", 7).is_ok());
        assert_eq!(object(b"{\"a\":1}", 6), Err(InvalidJson::TooLarge { limit: 6 }));
    }

    #[test]
    fn whole_numbers_keep_64_bits() {
        let read = read(r#"{"a":9007199254740993,"b":18446744073709551615}"#).unwrap();
        assert_eq!(read["a"].as_u64(), Some(9_007_199_254_740_993));
        assert_eq!(read["b"].as_u64(), Some(u64::MAX));
    }

    proptest! {
        #[test]
        fn a_value_is_read_as_a_common_parser_reads_it(bytes in prop::collection::vec(prop::sample::select(b"{}[]\":,01.e-a \\u".to_vec()), 0..40)) {
            if let Ok(ours) = object(&bytes, LIMIT) {
                prop_assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), Value::Object(ours));
            }
        }
    }
}
