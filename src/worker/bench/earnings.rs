//! What the machine could earn with the measured work: the units of docs/rewards.md at the prices that a person names. An estimate, so
//! floats will do; nobody is paid by it.

use serde::Serialize;

use super::{measure::Work, options::Prices};

const SECONDS_A_DAY: f64 = 86_400.0;
/// Parameters that a cost of 1 stands for, as docs/rewards.md has it.
const PARAMETERS: u64 = 500_000;
/// How much more a token that is written counts than one that is read, as docs/rewards.md has it.
const DECODE_WEIGHT: f64 = 8.0;

/// A day, with work all the time that `Prices` says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Earnings {
    /// What a token of this model costs, in units.
    pub cost_per_token: u64,
    pub units_per_day: f64,
    pub busy_percent: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xdc_per_day: Option<f64>,
    /// In the currency of the prices, before the power.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money_per_day: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_per_day: Option<f64>,
}

impl Earnings {
    pub(super) fn of(parameters: u64, work: &Work, prices: &Prices) -> Self {
        let cost_per_token = (parameters / PARAMETERS).max(1);
        let weighted = DECODE_WEIGHT * work.output_tokens + work.prompt_tokens;
        let busy = f64::from(prices.busy_percent) / 100.0;
        let units_per_day = cost_per_token as f64 * weighted / work.seconds.max(1e-9) * SECONDS_A_DAY * busy;
        let xdc_per_day = prices.price_per_billion_units.map(|price| units_per_day / 1e9 * price);
        let kwh_per_day = |watts: f64| watts / 1000.0 * 24.0 * busy;
        Earnings {
            cost_per_token,
            units_per_day,
            busy_percent: prices.busy_percent,
            xdc_per_day,
            money_per_day: xdc_per_day.zip(prices.price_xdc).map(|(xdc, price)| xdc * price),
            power_per_day: prices.price_kwh.zip(prices.watts).map(|(price, watts)| price * kwh_per_day(watts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_worked_out_as_the_rewards_page_says() {
        // 270 × (8 × 500 + 1,000) = 1,350,000 units, as in docs/rewards.md, each ten seconds, half of the day.
        let work = Work { prompt_tokens: 1000.0, output_tokens: 500.0, seconds: 10.0 };
        let prices = Prices {
            price_per_billion_units: Some(2.0),
            price_xdc: Some(0.05),
            price_kwh: Some(0.3),
            watts: Some(100.0),
            busy_percent: 50,
        };
        let earnings = Earnings::of(135_000_000, &work, &prices);
        assert_eq!((earnings.cost_per_token, earnings.units_per_day), (270, 135_000.0 * 43_200.0));
        let close = |found: Option<f64>, wanted: f64| (found.unwrap() - wanted).abs() < 1e-9;
        assert!(close(earnings.xdc_per_day, 11.664) && close(earnings.money_per_day, 0.5832));
        assert!(close(earnings.power_per_day, 0.36));
    }

    #[test]
    fn without_prices_only_units_are_told() {
        let work = Work { prompt_tokens: 1.0, output_tokens: 0.0, seconds: 1.0 };
        let earnings = Earnings::of(10, &work, &Prices { busy_percent: 100, ..Prices::default() });
        assert_eq!((earnings.cost_per_token, earnings.units_per_day), (1, 86_400.0));
        assert_eq!((earnings.xdc_per_day, earnings.money_per_day, earnings.power_per_day), (None, None, None));
    }
}
