//! JSON as strictly as tokens and key sets need it: UTF-8 without a byte order mark, no member twice
//! at any depth, and limits on depth and on the number of values. serde_json reads the text; only
//! what it lets pass is judged here.

use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How much of a document is read.
#[derive(Clone, Copy, Debug)]
pub struct JsonLimits {
    /// Objects and lists within one another.
    pub depth_max: usize,
    /// Values in all.
    pub values_max: usize,
}

/// Why a text is no acceptable JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    #[error("is no JSON object")]
    Syntax,
    #[error("has a member twice")]
    Duplicate,
    #[error("is nested too deeply")]
    TooDeep,
    #[error("has too many values")]
    TooMany,
}

/// Reads one JSON object and nothing after it.
pub fn object(text: &[u8], limits: JsonLimits) -> Result<Map<String, Value>, JsonError> {
    let text = std::str::from_utf8(text).map_err(|_| JsonError::Syntax)?;
    let mut budget = Budget { limits, values: 0, fault: JsonError::Syntax };
    let mut reader = serde_json::Deserializer::from_str(text);
    let seed = Strict { budget: &mut budget, depth: 0 };
    let read = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match read {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(JsonError::Syntax),
        Err(_) => Err(budget.fault),
    }
}

struct Budget {
    limits: JsonLimits,
    values: usize,
    /// What to say of an error that comes back from serde_json.
    fault: JsonError,
}

impl Budget {
    fn fail<E: Error>(&mut self, fault: JsonError) -> E {
        self.fault = fault;
        E::custom(fault)
    }
}

/// Reads one value, `depth` containers down.
struct Strict<'b> {
    budget: &'b mut Budget,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        self.budget.values += 1;
        if self.budget.values > self.budget.limits.values_max {
            return Err(self.budget.fail(JsonError::TooMany));
        }
        from.deserialize_any(self)
    }
}

impl Strict<'_> {
    fn open<E: Error>(&mut self) -> Result<(), E> {
        if self.depth >= self.budget.limits.depth_max {
            return Err(self.budget.fail(JsonError::TooDeep));
        }
        self.depth += 1;
        Ok(())
    }

    fn inner(&mut self) -> Strict<'_> {
        Strict { budget: self.budget, depth: self.depth }
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        match Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(self.budget.fail(JsonError::Syntax)),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        self.open()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self.inner())? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<Value, A::Error> {
        self.open()?;
        let mut members = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            let value = object.next_value_seed(self.inner())?;
            if members.insert(name, value).is_some() {
                return Err(self.budget.fail(JsonError::Duplicate));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: JsonLimits = JsonLimits { depth_max: 4, values_max: 20 };

    #[test]
    fn plain_objects_are_read() {
        let text = br#" {"a":[1,-2,1.5,"x\n",true,null],"b":{"a":{"a":{}}},"c":18446744073709551615} "#;
        assert_eq!(object(text, LIMITS).ok(), serde_json::from_slice(text).ok());
        assert!(object(text, LIMITS).is_ok());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let deep = |depth| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
        let many = |count| format!("{{\"a\":[{}0]}}", "0,".repeat(count)).into_bytes();
        let mut seen = 0;
        for (text, error) in [
            (br#"{"a":1,"a":1}"#.to_vec(), JsonError::Duplicate),
            (br#"{"a":1,"\u0061":2}"#.to_vec(), JsonError::Duplicate),
            (br#"{"x":[{"y":{"a":1,"b":1,"a":1}}]}"#.to_vec(), JsonError::Duplicate),
            (deep(4), JsonError::TooDeep),
            (deep(100_000), JsonError::TooDeep),
            (many(18), JsonError::TooMany),
            (b"\xef\xbb\xbf{}".to_vec(), JsonError::Syntax),
            (b"{\"a\":\"\xff\"}".to_vec(), JsonError::Syntax),
            (br#"{"a":"\ud800"}"#.to_vec(), JsonError::Syntax),
            (br#"{"a":"\udc00\ud800"}"#.to_vec(), JsonError::Syntax),
            (b"{\"a\":\"\n\"}".to_vec(), JsonError::Syntax),
            (br#"{"a":1e400}"#.to_vec(), JsonError::Syntax),
            (br#"{"a":NaN}"#.to_vec(), JsonError::Syntax),
            (br#"{"a":01}"#.to_vec(), JsonError::Syntax),
            (br#"{"a":1,}"#.to_vec(), JsonError::Syntax),
            (br#"{"a":1} x"#.to_vec(), JsonError::Syntax),
            (br#"{}{}"#.to_vec(), JsonError::Syntax),
            (br#"[]"#.to_vec(), JsonError::Syntax),
            (br#""a""#.to_vec(), JsonError::Syntax),
            (b"".to_vec(), JsonError::Syntax),
            (br#"{"a":"#.to_vec(), JsonError::Syntax),
            (br#"{'a':1}"#.to_vec(), JsonError::Syntax),
            (br#"{"a":1/**/}"#.to_vec(), JsonError::Syntax),
        ] {
            let shown = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
            assert_eq!(object(&text, LIMITS), Err(error), "{shown}");
            seen += 1;
        }
        assert_eq!(seen, 23);
        assert!(object(&deep(3), LIMITS).is_ok());
        assert!(object(&many(17), LIMITS).is_ok());
    }
}
