//! Samples under their names, and what is said of them.

use serde_json::{Value, json};

/// One thing that was measured again and again.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// What it belongs to.
    pub(crate) group: &'static str,
    /// From what to what.
    pub(crate) name: &'static str,
    /// Every sample, in order of measuring; milliseconds unless the name says otherwise.
    samples: Vec<f64>,
}

impl Series {
    /// How many samples.
    pub(crate) fn count(&self) -> usize {
        self.samples.len()
    }

    /// The value that the share `q` of the samples does not exceed (nearest rank). With fewer than 100 samples, the p99 is
    /// the slowest one.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        // The rank is between 1 and the count of samples, which is small.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let rank = (q * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// All of it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "group": self.group,
            "name": self.name.trim(),
            "median": self.median(),
            "p99": self.quantile(0.99),
            "samples": self.samples,
        })
    }

    /// Half are faster.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// All series, in the order in which they first appeared.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Series>);

impl Figures {
    /// Adds one sample.
    pub(crate) fn record(&mut self, group: &'static str, name: &'static str, sample: f64) {
        let known = self.0.iter_mut().find(|s| s.group == group && s.name == name);
        match known {
            Some(series) => series.samples.push(sample),
            None => self.0.push(Series {
                group,
                name,
                samples: vec![sample],
            }),
        }
    }

    /// The median of a series, if it was measured.
    pub(crate) fn median(&self, group: &str, name: &str) -> Option<f64> {
        let series = self.0.iter().find(|s| s.group == group && s.name == name);
        series.map(Series::median)
    }

    /// The slowest sample of a series, if it was measured.
    pub(crate) fn slowest(&self, group: &str, name: &str) -> Option<f64> {
        let series = self.0.iter().find(|s| s.group == group && s.name == name);
        series.map(|series| series.quantile(1.0))
    }

    /// Every series.
    pub(crate) fn series(&self) -> &[Series] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let mut figures = Figures::default();
        for sample in [5.0, 1.0, 4.0, 2.0, 3.0] {
            figures.record("g", "n", sample);
        }
        let series = &figures.series()[0];
        assert_eq!((series.median(), series.quantile(0.99)), (3.0, 5.0));
        assert_eq!(series.quantile(0.0), 1.0);
        assert_eq!(figures.median("g", "n"), Some(3.0));
        assert_eq!(figures.median("g", "other"), None);
        assert_eq!(figures.slowest("g", "n"), Some(5.0));
        assert_eq!(figures.slowest("other", "n"), None);
    }
}
