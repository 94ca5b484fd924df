//! Feature `serde`: schedules are serialized as their text.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::{Serialize, Serializer};

use super::{Cron, Disambiguation, LocalTime, PostingSlots, Recurrence, RecurrenceRule, Schedule};

macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(Error::custom)
            }
        }
    )*};
}

as_text!(Cron, Disambiguation, LocalTime, PostingSlots, Recurrence, RecurrenceRule, Schedule);

#[cfg(test)]
mod tests {
    use super::*;

    use serde::de::{IntoDeserializer, value};

    struct Serialized(Schedule);

    impl std::fmt::Display for Serialized {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.serialize(f)
        }
    }

    fn read(text: &str) -> Result<Schedule, value::Error> {
        let input: value::StrDeserializer<'_, value::Error> = text.into_deserializer();
        Schedule::deserialize(input)
    }

    #[test]
    fn schedules_are_serialized_as_their_text() {
        for text in ["slots Europe/Berlin Mon-Fri 08:00", "cron UTC 0 8 * * 1", "local 2026-03-29T02:30 UTC compatible"]
        {
            assert_eq!(Serialized(read(text).unwrap()).to_string(), text);
        }
        let error = read("cron Europe/Berln @daily").unwrap_err();
        assert!(error.to_string().contains("Europe/Berlin"), "{error}");
    }
}
