//! Cron lines: five fields as in crontab, or six with the seconds first, or a word such as `@daily`.
//!
//! The broker carries them out. This file finds what it would refuse, and says which field is wrong; and it knows the next time of a
//! line in UTC.

/// A field of a cron line: its name, its smallest and largest number, and the words for its numbers.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    words: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 6] = [
    Field { name: "second", least: 0, most: 59, words: &[] },
    Field { name: "minute", least: 0, most: 59, words: &[] },
    Field { name: "hour", least: 0, most: 23, words: &[] },
    Field { name: "day of the month", least: 1, most: 31, words: &[] },
    Field { name: "month", least: 1, most: 12, words: MONTHS },
    Field { name: "day of the week", least: 0, most: 6, words: DAYS },
];

/// The longest line, in bytes.
const MAX_LINE: usize = 256;

const NAMES: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// The line as the broker takes it: six fields, or one of the words. The error is a sentence about the field that is wrong.
pub(super) fn parse(line: &str) -> Result<String, String> {
    let line = line.trim();
    if line.len() > MAX_LINE {
        return Err(format!("a line has at most {MAX_LINE} bytes"));
    }
    if line.starts_with('@') {
        let known = NAMES.contains(&line);
        return known.then(|| line.to_owned()).ok_or_else(|| {
            format!(
                "{line:?} is not known: use one of {}, or five fields such as \"0 3 * * *\"",
                NAMES.join(" ")
            )
        });
    }
    let mut fields: Vec<&str> = line.split_ascii_whitespace().collect();
    match fields.len() {
        5 => fields.insert(0, "0"),
        6 => {}
        number => {
            return Err(format!(
                "{number} fields: a line has five (minute, hour, day of the month, month, day of the week), or six with the second first"
            ));
        }
    }
    for (field, text) in FIELDS.iter().zip(&fields) {
        field.read(text).map_err(|problem| format!("{}: {problem}", field.name))?;
    }
    Ok(fields.join(" "))
}

/// A line of the broker as a person writes it: without the second if it is 0.
pub(super) fn shown(line: &str) -> &str {
    let minutes = line.strip_prefix("0 ").filter(|rest| rest.split(' ').count() == 5);
    minutes.unwrap_or(line)
}

impl Field {
    /// The numbers that a field allows, as bits. [`ANY`] is set if it does not restrict them.
    fn read(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |bits, part| Ok(bits | self.read_part(part)?))
    }

    /// `*`, a number, a range, each with a step if one wants.
    fn read_part(&self, part: &str) -> Result<u64, String> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let steps = step.map_or(Some(1), |step| step.parse::<u32>().ok().filter(|step| *step > 0));
        let Some(steps) = steps else {
            return Err(format!("{:?} is not a step: use a number from 1 on", step.unwrap_or_default()));
        };
        if range == "*" || range == "?" {
            let any = if steps == 1 { ANY } else { 0 };
            return Ok(bits(self.least, self.most, steps) | any);
        }
        let (from, to) = range.split_once('-').map_or((range, None), |(from, to)| (from, Some(to)));
        let from = self.number(from)?;
        let to = match to {
            Some(to) => self.number(to)?,
            // A number with a step goes on to the end.
            None if step.is_some() => self.most,
            None => from,
        };
        if from > to {
            return Err(format!("{range:?} ends before it begins"));
        }
        Ok(bits(from, to, steps))
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        let word = word.and_then(|at| u32::try_from(at).ok()).map(|at| at + self.least);
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = word.or_else(|| text.parse().ok().filter(|_| digits));
        number.filter(|number| (self.least..=self.most).contains(number)).ok_or_else(|| {
            let words = match self.words {
                [first, .., last] => format!(", or a name from {first} to {last}"),
                _ => String::new(),
            };
            format!("{text:?} is not a number from {} to {}{words}", self.least, self.most)
        })
    }
}

/// Set for a field that does not restrict its number.
const ANY: u64 = 1 << 63;
const DAY: u64 = 86_400;
/// For so many days the broker looks for a time.
const MOST_DAYS: u64 = 5 * 366;

fn bits(from: u32, to: u32, steps: u32) -> u64 {
    let steps = usize::try_from(steps).unwrap_or(usize::MAX);
    (from..=to).step_by(steps).fold(0, |bits, number| bits | 1 << number)
}

fn has(bits: u64, number: u64) -> bool {
    bits & 1 << number > 0
}

/// The first time of a line of the broker in UTC after a time. Both are in seconds since 1970.
pub(super) fn next(line: &str, after: u64) -> Option<u64> {
    let line = match line {
        "@yearly" | "@annually" => "0 0 0 1 1 *",
        "@monthly" => "0 0 0 1 * *",
        "@weekly" => "0 0 0 * * 0",
        "@daily" | "@midnight" => "0 0 0 * * *",
        "@hourly" => "0 0 * * * *",
        fields => fields,
    };
    let read = |(field, text): (&Field, &str)| field.read(text).ok();
    let fields: Vec<u64> =
        FIELDS.iter().zip(line.split_ascii_whitespace()).map(read).collect::<Option<_>>()?;
    let &[seconds, minutes, hours, dates, months, weekdays] = fields.as_slice() else { return None };
    let start = after.checked_add(1)?;
    let today = start / DAY;
    let mut days = (today..=today + MOST_DAYS).filter(|day| {
        let (month, date) = month_and_date(*day);
        let (date, weekday) = (has(dates, date), has(weekdays, (day + 4) % 7));
        let either = (dates | weekdays) & ANY == 0;
        has(months, month) && if either { date || weekday } else { date && weekday }
    });
    let of_day = |from| of_day([hours, minutes, seconds], from);
    days.find_map(|day| of_day(if day == today { start % DAY } else { 0 }).map(|second| day * DAY + second))
}

/// The first second of a day, at or behind another one, that these hours, minutes and seconds allow.
fn of_day([hours, minutes, seconds]: [u64; 3], from: u64) -> Option<u64> {
    (from / 3_600..24).filter(|hour| has(hours, *hour)).find_map(|hour| {
        let first = (from / 60).saturating_sub(hour * 60);
        (first..60).filter(|minute| has(minutes, *minute)).find_map(|minute| {
            let begin = hour * 3_600 + minute * 60;
            (from.saturating_sub(begin)..60).find(|second| has(seconds, *second)).map(|second| begin + second)
        })
    })
}

/// The month and the date of a day since 1970, by the civil calendar.
fn month_and_date(day: u64) -> (u64, u64) {
    // Years that begin in March, in eras of 400.
    let of_era = (day + 719_468) % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_fields_get_a_second_and_six_stay() {
        for (line, expected) in [
            ("0 3 * * *", "0 0 3 * * *"),
            ("  */5   8-18  * jan-MAR mon-fri ", "0 */5 8-18 * jan-MAR mon-fri"),
            ("*/10 * * * * *", "*/10 * * * * *"),
            ("0,30 0-30/10,45 3 1 2 ?", "0,30 0-30/10,45 3 1 2 ?"),
            ("@hourly", "@hourly"),
        ] {
            assert_eq!(parse(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_bad_line_is_refused_with_the_field_that_is_wrong() {
        for (line, words) in [
            ("", "0 fields"),
            ("* * * *", "4 fields"),
            ("60 * * * *", "minute: \"60\" is not a number from 0 to 59"),
            ("0 24 * * *", "hour: \"24\""),
            ("0 0 0 * *", "day of the month: \"0\" is not a number from 1 to 31"),
            ("0 0 * foo *", "month: \"foo\" is not a number from 1 to 12, or a name from jan to dec"),
            ("0 0 * * 7", "day of the week: \"7\" is not a number from 0 to 6"),
            ("5-1 * * * *", "minute: \"5-1\" ends before it begins"),
            ("*/0 * * * *", "minute: \"0\" is not a step"),
            ("*/x * * * *", "minute: \"x\" is not a step"),
            ("+5 * * * *", "minute: \"+5\""),
            ("1,,2 * * * *", "minute: \"\" is not"),
            ("@reboot", "\"@reboot\" is not known"),
            ("\u{e4} * * * *", "minute:"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn a_line_is_shown_as_it_is_usually_written() {
        assert_eq!(shown("0 0 3 * * *"), "0 3 * * *");
        assert_eq!(shown("5 0 3 * * *"), "5 0 3 * * *");
        assert_eq!(shown("@daily"), "@daily");
    }

    proptest::proptest! {
        #[test]
        fn the_first_second_of_a_day_that_fits_is_found(
            hours in 1_u64..1 << 24, minutes in 1_u64..1 << 60, seconds in 1_u64..1 << 60, rare in 0_u64..59, from in 0..DAY
        ) {
            // A single second of each minute, beside those with about half of them.
            for seconds in [seconds, 1 << rare] {
                let fits = |second: &u64| {
                    has(hours, second / 3600) && has(minutes, second / 60 % 60) && has(seconds, second % 60)
                };
                proptest::prop_assert_eq!(of_day([hours, minutes, seconds], from), (from..DAY).find(fits));
            }
        }
    }

    #[test]
    fn the_next_time_of_a_line_is_the_brokers() {
        let seconds = |text: &str| {
            let time = humantime::parse_rfc3339_weak(text).unwrap();
            time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
        };
        for (line, after, expected) in [
            ("* * * * * *", "2026-11-27 02:05:06", Some("2026-11-27 02:05:07")),
            ("0 0 3 * * *", "2026-11-27 02:59:59", Some("2026-11-27 03:00:00")),
            ("0 0 3 * * *", "2026-11-27 03:00:00", Some("2026-11-28 03:00:00")),
            ("*/20 * * * * *", "2026-12-31 23:59:41", Some("2027-01-01 00:00:00")),
            ("0 10/15 * * * *", "2026-11-27 02:41:00", Some("2026-11-27 02:55:00")),
            ("0 0 0 29 2 *", "2026-03-01 00:00:00", Some("2028-02-29 00:00:00")),
            ("0 0 9 * * mon-fri", "2026-11-27 09:00:00", Some("2026-11-30 09:00:00")),
            // Either the date or the weekday, if both are restricted.
            ("0 0 0 13 * 5", "2026-11-27 00:00:00", Some("2026-12-04 00:00:00")),
            ("0 0 0 13 * 5", "2026-12-12 00:00:00", Some("2026-12-13 00:00:00")),
            ("0 0 0 */2 * 1", "2026-11-27 12:00:00", Some("2026-11-29 00:00:00")),
            ("0 0 0 31 2 *", "2026-11-27 00:00:00", None),
            ("@weekly", "2026-11-27 00:00:00", Some("2026-11-29 00:00:00")),
            ("@yearly", "2026-11-27 00:00:00", Some("2027-01-01 00:00:00")),
            ("no line", "2026-11-27 00:00:00", None),
        ] {
            assert_eq!(next(line, seconds(after)), expected.map(seconds), "{line} {after}");
        }
    }
}
