//! Pure: availability windows. Whether one is open at a moment, and when that changes next.

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Weekday},
    fmt::temporal::DateTimeParser,
    tz::TimeZone,
};

use crate::api::{
    conditions::Finding,
    grid_node::{Availability, AvailabilityWindow, Day},
    reasons::Reason,
};

/// Days after today that are looked at: a week has every window in it.
const DAYS_AHEAD: i32 = 8;

/// A window whose every value is known to be sound.
#[derive(Debug, Clone)]
pub struct Window {
    days: Vec<Weekday>,
    start: TimeOfDay,
    end: TimeOfDay,
    zone: TimeZone,
}

/// 24:00 is the end of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TimeOfDay {
    hour: i8,
    minute: i8,
}

/// Whether a node may be given work now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Openness {
    /// It has no windows.
    Always,
    Open {
        until: Option<Timestamp>,
    },
    Closed {
        until: Option<Timestamp>,
    },
}

impl Openness {
    pub fn is_open(self) -> bool {
        !matches!(self, Openness::Closed { .. })
    }

    /// When it changes next; absent when it does not within a week.
    pub fn until(self) -> Option<Timestamp> {
        match self {
            Openness::Always => None,
            Openness::Open { until } | Openness::Closed { until } => until,
        }
    }
}

/// The windows of a spec; what is wrong with one is named with its field.
pub fn windows(availability: Option<&Availability>) -> Result<Vec<Window>, Finding> {
    let windows = availability.into_iter().flat_map(|availability| &availability.windows);
    windows.enumerate().map(|(index, window)| parse(index, window)).collect()
}

fn parse(index: usize, window: &AvailabilityWindow) -> Result<Window, Finding> {
    let invalid = |field: &str, message: String| {
        Finding::no(Reason::InvalidObject, format!("spec.availability.windows[{index}].{field}: {message}"))
    };
    let name = &window.time_zone;
    let zone = DateTimeParser::new().parse_time_zone(name).map_err(|_| {
        invalid("timeZone", format!("{name:?} is no known time zone; use an IANA name or an offset such as +02:00"))
    })?;
    let time = |field: &str, text: &str| {
        time_of_day(text).ok_or_else(|| invalid(field, format!("{text:?} is no time of day such as 07:30")))
    };
    let (start, end) = (time("start", &window.start)?, time("end", &window.end)?);
    Ok(Window { days: window.days.iter().copied().map(weekday).collect(), start, end, zone })
}

fn time_of_day(text: &str) -> Option<TimeOfDay> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute): (i8, i8) = (hour.parse().ok()?, minute.parse().ok()?);
    let sound = (0..24).contains(&hour) && (0..60).contains(&minute) || (hour, minute) == (24, 0);
    sound.then_some(TimeOfDay { hour, minute })
}

fn weekday(day: Day) -> Weekday {
    match day {
        Day::Monday => Weekday::Monday,
        Day::Tuesday => Weekday::Tuesday,
        Day::Wednesday => Weekday::Wednesday,
        Day::Thursday => Weekday::Thursday,
        Day::Friday => Weekday::Friday,
        Day::Saturday => Weekday::Saturday,
        Day::Sunday => Weekday::Sunday,
    }
}

pub fn at(windows: &[Window], now: Timestamp) -> Openness {
    if windows.is_empty() {
        return Openness::Always;
    }
    let mut spans: Vec<_> = windows.iter().flat_map(|window| spans(window, now)).collect();
    spans.sort_unstable();
    let open = spans.iter().any(|(start, end)| *start <= now && now < *end);
    if !open {
        return Openness::Closed { until: spans.iter().map(|(start, _)| *start).find(|start| *start > now) };
    }
    // Spans that touch or overlap are one: the change is where the last of them ends.
    let until = spans.iter().fold(now, |until, (start, end)| if *start <= until { until.max(*end) } else { until });
    let horizon = now.checked_add(i64::from(DAYS_AHEAD - 1).saturating_mul(24).hours()).unwrap_or(Timestamp::MAX);
    Openness::Open { until: Some(until).filter(|until| *until < horizon) }
}

/// When a window is open, from yesterday (it may reach into today) to the end of the horizon.
fn spans(window: &Window, now: Timestamp) -> Vec<(Timestamp, Timestamp)> {
    let today = window.zone.to_datetime(now).date();
    let days = (-1..=DAYS_AHEAD).filter_map(|offset| today.checked_add(offset.days()).ok());
    let opens = days.filter(|day| window.days.contains(&day.weekday()));
    opens
        .filter_map(|day| {
            let last = if window.end <= window.start { day.tomorrow().ok()? } else { day };
            Some((moment(day, window.start, &window.zone)?, moment(last, window.end, &window.zone)?))
        })
        .collect()
}

/// A time that a change of the clocks leaves out is the moment after it; one that comes twice is the first.
fn moment(day: Date, time: TimeOfDay, zone: &TimeZone) -> Option<Timestamp> {
    let (day, hour) = if time.hour == 24 { (day.tomorrow().ok()?, 0) } else { (day, time.hour) };
    Some(day.at(hour, time.minute, 0, 0).to_zoned(zone.clone()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(yaml: &str) -> Vec<Window> {
        windows(Some(&serde_yaml::from_str(yaml).unwrap())).unwrap()
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_node_without_windows_is_always_available() {
        assert_eq!(at(&[], time("2026-03-02T12:00:00Z")), Openness::Always);
        assert!(of("{windows: []}").is_empty());
    }

    #[test]
    fn a_window_opens_and_closes_on_its_days_in_its_zone() {
        // 2026-03-02 is a Monday; Berlin is one hour ahead of UTC then.
        let office = of(r#"{windows: [{days: [Monday], start: "08:00", end: "18:00", timeZone: Europe/Berlin}]}"#);
        let closed = Openness::Closed { until: Some(time("2026-03-02T07:00:00Z")) };
        assert_eq!(at(&office, time("2026-03-02T06:59:59Z")), closed);
        let open = Openness::Open { until: Some(time("2026-03-02T17:00:00Z")) };
        assert_eq!(at(&office, time("2026-03-02T07:00:00Z")), open);
        let next_week = Openness::Closed { until: Some(time("2026-03-09T07:00:00Z")) };
        assert_eq!(at(&office, time("2026-03-02T17:00:00Z")), next_week);
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_starts() {
        let night = of(r#"{windows: [{days: [Friday], start: "22:00", end: "06:00"}]}"#);
        assert!(at(&night, time("2026-03-06T23:00:00Z")).is_open(), "Friday night");
        assert!(at(&night, time("2026-03-07T05:59:00Z")).is_open(), "Saturday morning");
        assert!(!at(&night, time("2026-03-06T05:00:00Z")).is_open(), "Friday morning");
        assert!(!at(&night, time("2026-03-07T23:00:00Z")).is_open(), "Saturday night");
    }

    #[test]
    fn windows_that_touch_are_one_and_the_whole_week_never_ends() {
        let two = of(r#"{windows: [{start: "08:00", end: "12:00"}, {start: "12:00", end: "13:00"}]}"#);
        let until = Some(time("2026-03-02T13:00:00Z"));
        assert_eq!(at(&two, time("2026-03-02T09:00:00Z")), Openness::Open { until });
        let always = of(r#"{windows: [{start: "00:00", end: "24:00"}]}"#);
        assert_eq!(at(&always, time("2026-03-02T09:00:00Z")), Openness::Open { until: None });
    }

    #[test]
    fn a_change_of_the_clocks_moves_a_window_with_the_wall_clock() {
        // On 2026-03-29 the clocks of Berlin go from 02:00 to 03:00.
        let morning = of(r#"{windows: [{start: "02:30", end: "08:00", timeZone: Europe/Berlin}]}"#);
        let until = Some(time("2026-03-29T06:00:00Z"));
        assert_eq!(at(&morning, time("2026-03-29T05:00:00Z")), Openness::Open { until });
        assert_eq!(
            at(&morning, time("2026-03-29T01:00:00Z")),
            Openness::Closed { until: Some(time("2026-03-29T01:30:00Z")) }
        );
    }

    #[test]
    fn an_offset_is_a_zone_and_an_unknown_name_is_named() {
        let east = of(r#"{windows: [{start: "08:00", end: "09:00", timeZone: "+08:00"}]}"#);
        assert!(at(&east, time("2026-03-02T00:30:00Z")).is_open());
        let bad =
            serde_yaml::from_str(r#"{windows: [{start: "08:00", end: "09:00", timeZone: Mars/Olympus}]}"#).unwrap();
        let finding = windows(Some(&bad)).unwrap_err();
        assert!(
            finding.message.contains("windows[0].timeZone") && finding.message.contains("Mars/Olympus"),
            "{finding:?}"
        );
    }
}
