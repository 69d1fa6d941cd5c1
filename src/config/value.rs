//! What single values are read into.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use schemars::{Schema, SchemaGenerator, json_schema};
use time::{Date, Month};

use super::definition::choice;
use super::read::{Field, Reader};
use super::source::At;
use super::tree::{Node, Value};
use crate::clock::Timestamp;
use crate::identity::{ActorKind, Name, SpiffeId, SpiffePattern, TrustDomain};
use crate::policy::claim::{ClaimPath, ClaimValue};
use crate::policy::condition::GrpcPattern;
use crate::policy::pattern::{Glob, HostPattern, PathPattern};

/// A time span that may not be zero: a timeout of nothing refuses everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub Duration);

/// A number of bytes: `"64KiB"`, or a bare number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// A day in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day(Date);

impl Day {
    /// The first moment of the day.
    pub fn start(self) -> Timestamp {
        Timestamp::from_unix_seconds(self.0.midnight().assume_utc().unix_timestamp())
    }

    /// The first moment after the day.
    pub fn end(self) -> Timestamp {
        self.start().plus(Duration::from_secs(24 * 60 * 60))
    }
}

/// Types that are read from a string by their own parser, with what editors may know of it. Where a value may
/// hold `${NAME}`, so may the pattern.
macro_rules! texts {
    ($($type:ty: $expected:literal, { $($known:tt)* };)+) => {$(
        impl Field for $type {
            fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
                reader.parse(node, $expected)
            }

            fn schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "minLength": 1, $($known)* })
            }
        }
    )+};
}

texts! {
    String: "some text", {};
    Name: "a name", { "pattern": r"^([A-Za-z0-9_-]{1,64}|.*\$\{.*)$" };
    SocketAddr: "an address and a port, as `\"127.0.0.1:8443\"`", { "examples": ["127.0.0.1:8443", "[::1]:8443"] };
    TrustDomain: "a trust domain, as `\"shop.example\"`", {
        "pattern": "^[a-z0-9._-]{1,255}$", "examples": ["shop.example"]
    };
    IpAddr: "an address, as `\"10.0.0.1\"`", { "examples": ["10.0.0.1", "2001:db8::1"] };
    SpiffeId: "a SPIFFE ID, as `\"spiffe://shop.example/ns/prod/sa/web\"`", {
        "pattern": r"^(spiffe://|\$\{)", "examples": ["spiffe://shop.example/ns/prod/sa/web"]
    };
    SpiffePattern: "a SPIFFE ID, as `\"spiffe://shop.example/ns/prod/sa/web\"`", {
        "pattern": r"^(spiffe://|\$\{)", "examples": ["spiffe://shop.example/ns/prod/sa/web"]
    };
    HostPattern: "a host, as `\"orders.shop.example\"` or `\"*.shop.example\"`", {
        "examples": ["orders.shop.example", "*.shop.example"]
    };
    PathPattern: "a path, as `\"/orders/{order}/**\"`", {
        "pattern": r"^(/|\$\{)", "examples": ["/orders/{order}/**", "/orders/*"]
    };
    Glob: "a text, or the start of one and `*`", { "examples": ["storefront-web", "assistant-*"] };
    GrpcPattern: "a gRPC method, as `\"shop.Orders/Get\"` or `\"shop.Orders/*\"`", {
        "pattern": r"^[A-Za-z0-9_.]+/([A-Za-z0-9_]+|\*)$", "examples": ["shop.Orders/Get", "shop.Orders/*"]
    };
}

/// A range, or one address.
impl Field for IpNet {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "an address or a range, as `\"10.0.0.1\"` or `\"10.0.0.0/8\"`";
        let text = reader.text(node, EXPECTED)?;
        let one = text.parse::<IpAddr>().map(IpNet::from);
        one.or_else(|_| text.parse()).inspect_err(|why| reader.refuse(node.span, text, why, EXPECTED)).ok()
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "examples": ["10.0.0.0/8", "2001:db8::1"] })
    }
}

choice!(for ActorKind { Human = "human", Service = "service", Agent = "agent", Unknown = "unknown", });

/// What waits longer waits for ever; clocks and caches can count to more.
const DURATION_MS_MAX: u64 = 366 * 24 * 60 * 60 * 1000;

/// A span of time in one unit, as `"30s"`.
fn duration(text: &str) -> Result<Duration, &'static str> {
    const SHAPE: &str = "a duration is a whole number and one of `ms`, `s`, `m`, `h`, `d`";
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or(SHAPE)?;
    let number: u64 = text[..unit].parse().map_err(|_| SHAPE)?;
    let ms_per_unit = match &text[unit..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        "d" => 24 * 60 * 60 * 1000,
        _ => return Err(SHAPE),
    };
    match number.checked_mul(ms_per_unit) {
        Some(ms) if ms <= DURATION_MS_MAX => Ok(Duration::from_millis(ms)),
        _ => Err("this is longer than a year"),
    }
}

const DURATION: &str = "a duration, as `\"30s\"`, `\"15m\"` or `\"2h\"`";

impl Field for Duration {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(node, DURATION)?;
        match duration(text) {
            Ok(value) => Some(value),
            Err(why) => {
                reader.refuse(node.span, text, &why, DURATION);
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d)|.*\$\{.*)$", "examples": ["30s", "15m", "2h"]
        })
    }
}

impl Field for Timeout {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let duration = Duration::read(node, reader)?;
        if duration.is_zero() {
            let message = "a time of zero".to_owned();
            reader.error("bad_value", node.span, message, format!("write {DURATION}"));
            return None;
        }
        Some(Timeout(duration))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        Duration::schema(generator)
    }
}

fn bytes(text: &str) -> Result<u64, &'static str> {
    const SHAPE: &str = "a size is a whole number and one of `B`, `KiB`, `MiB`, `GiB`";
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or(SHAPE)?;
    let number: u64 = text[..unit].parse().map_err(|_| SHAPE)?;
    let bytes_per_unit: u64 = match &text[unit..] {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(SHAPE),
    };
    match number.checked_mul(bytes_per_unit) {
        Some(0) => Err("a size of zero"),
        Some(bytes) => Ok(bytes),
        None => Err("this is more than can be counted"),
    }
}

impl Field for Bytes {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "a size, as `\"64KiB\"`";
        if let Value::Integer(_) = node.value {
            return reader.count(node, i64::MAX as u64).map(Bytes);
        }
        let text = reader.text(node, EXPECTED)?;
        match bytes(text) {
            Ok(value) => Some(Bytes(value)),
            Err(why) => {
                reader.refuse(node.span, text, &why, EXPECTED);
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "pattern": r"^([0-9]+(B|KiB|MiB|GiB)|.*\$\{.*)$", "examples": ["64KiB", "10MiB"] },
            { "type": "integer", "minimum": 1 },
        ] })
    }
}

impl Field for u32 {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        reader.count(node, u64::from(u32::MAX)).and_then(|number| u32::try_from(number).ok())
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": u32::MAX })
    }
}

/// A moment: a date and time with its offset, or a day in UTC for its first moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment(pub Timestamp);

impl Field for Moment {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "a moment, as `2027-01-31T12:00:00Z` or `2027-01-31`";
        let typed = match &node.value {
            Value::Date(date) => date.to_string(),
            _ => reader.text(node, EXPECTED)?.to_owned(),
        };
        let whole =
            if typed.len() == 10 { format!("{typed}T00:00:00Z") } else { typed.replacen(' ', "T", 1) };
        match whole.parse() {
            Ok(at) => Some(Moment(at)),
            Err(why) => {
                reader.refuse(node.span, &typed, &why, EXPECTED);
                None
            }
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// `version = 1`: the only one there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version;

impl Field for Version {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        if let Value::Integer(Some(1)) = node.value {
            return Some(Version);
        }
        let message = format!("`{}` is no version that is known here", reader.sources.typed(node.span));
        reader.error("bad_value", node.span, message, "write `version = 1`");
        None
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": 1 })
    }
}

impl Field for Day {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "a day in UTC, as `\"2027-01-31\"`";
        if let Value::Date(datetime) = &node.value {
            return match (datetime.date, datetime.time, datetime.offset) {
                (Some(date), None, None) => day(date.year, date.month, date.day),
                _ => {
                    reader.mismatch(node, EXPECTED);
                    None
                }
            };
        }
        let text = reader.text(node, EXPECTED)?;
        let mut parts = text.split('-').map(|part| part.parse::<u16>().ok());
        let date = match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten()) {
            (Some(year), Some(month), Some(date)) if parts.next().is_none() && text.len() == 10 => {
                u8::try_from(month).ok().zip(u8::try_from(date).ok()).and_then(|(m, d)| day(year, m, d))
            }
            _ => None,
        };
        if date.is_none() {
            reader.refuse(node.span, text, &"there is no such day", EXPECTED);
        }
        date
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date", "examples": ["2027-01-31"] })
    }
}

fn day(year: u16, month: u8, day: u8) -> Option<Day> {
    let month = Month::try_from(month).ok()?;
    Date::from_calendar_date(i32::from(year), month, day).ok().map(Day)
}

/// A string is one top-level name, whatever dots or slashes it holds; a list is a path.
impl Field for ClaimPath {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let names: Vec<At<String>> = Field::read(node, reader)?;
        Some(ClaimPath(names.into_iter().map(|name| name.value.into()).collect()))
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        <Vec<At<String>>>::schema(generator)
    }
}

impl Field for ClaimValue {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.value {
            Value::Integer(Some(number)) => Some(ClaimValue::Integer(*number)),
            Value::Boolean(value) => Some(ClaimValue::Boolean(*value)),
            _ => Glob::read(node, reader).map(ClaimValue::Text),
        }
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer", "boolean"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_one_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("60d"), Ok(Duration::from_secs(60 * 86_400)));
        for bad in ["", "30", "s", "1h30m", "-1s", "1.5s", "30 s", "30S", "367d", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes("64KiB"), Ok(65_536));
        for bad in ["", "64", "64K", "64kb", "64KB", "0KiB", "18446744073709551615GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_day_is_all_of_it_in_utc() {
        let day = day(2027, 1, 31).unwrap();
        assert_eq!(day.start().to_string(), "2027-01-31T00:00:00.000Z");
        assert_eq!(day.end().to_string(), "2027-02-01T00:00:00.000Z");
    }
}
