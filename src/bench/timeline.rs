//! Timeline of a captured training step: when each launch begins and ends. The graph of this step has an event before and
//! after each launch, so its launches do not overlap. Other graphs have none, and cost nothing more.

use serde::Serialize;

use crate::backend::Backend;
use crate::backend::cuda::device::{Device, MeasuredLaunch, Observer};
use crate::backend::cuda::launchers::linear::Format;
use crate::backend::device::{BackendTask, run_kernels};
use crate::bench::sizes::Sizes;
use crate::bench::step::{LEARNING_RATE, LOSS, model_of};
use crate::error::Result;
use crate::optimizer::Adam;
use crate::report::table::plain_table;

/// Steps before the one that is kept.
const WARM_UP: usize = 3;

/// Launches of a step by kernel. The sums of the rows in the main stream and the time between launches add up to the step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// Kernels in the order of their first launch.
    pub kernels: Vec<KernelSpan>,
    /// Time between the launches of the main stream.
    pub between_us: f64,
    /// From the first start to the last end.
    pub step_us: f64,
}

/// Launches of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelSpan {
    /// Name of the kernel.
    pub kernel: String,
    /// Whether the launches belong to the branch beside the main stream.
    pub on_branch: bool,
    /// Number of launches.
    pub launches: usize,
    /// Start of the first launch, since the start of the step.
    pub first_start_us: f64,
    /// End of the last launch, since the start of the step.
    pub last_end_us: f64,
    /// Sum over the launches.
    pub sum_us: f64,
}

impl Timeline {
    /// Runs some steps on the device; the last one is measured.
    pub fn measure(device: Device, format: Format, sizes: &Sizes) -> Result<Timeline> {
        let observer = device.observer();
        run_kernels(device, format, TimelineTask { sizes, observer })
    }

    /// Groups launches by kernel.
    pub fn of(launches: &[MeasuredLaunch]) -> Timeline {
        let mut kernels: Vec<KernelSpan> = Vec::new();
        let (mut between_us, mut step_us) = (0.0, 0.0f64);
        let mut main_end = launches.iter().map(|launch| launch.start_us).fold(f64::INFINITY, f64::min);
        for launch in launches {
            let MeasuredLaunch { kernel, on_branch, start_us, end_us } = *launch;
            if !on_branch {
                between_us += start_us - main_end;
                main_end = end_us;
            }
            step_us = step_us.max(end_us);
            let same = |span: &&mut KernelSpan| span.kernel == kernel && span.on_branch == on_branch;
            match kernels.iter_mut().find(same) {
                Some(span) => {
                    span.launches += 1;
                    span.last_end_us = end_us;
                    span.sum_us += end_us - start_us;
                }
                None => kernels.push(KernelSpan {
                    kernel: kernel.into(),
                    on_branch,
                    launches: 1,
                    first_start_us: start_us,
                    last_end_us: end_us,
                    sum_us: end_us - start_us,
                }),
            }
        }
        Timeline { kernels, between_us, step_us }
    }

    /// Table of the kernels.
    pub fn text(&self) -> String {
        let mut table = plain_table(["kernel", "launches", "first start", "last end", "sum", "of step"]);
        let share = |us: f64| format!("{:.1}%", 100.0 * us / self.step_us.max(f64::MIN_POSITIVE));
        for span in &self.kernels {
            let (name, share) = match span.on_branch {
                true => (format!("{} (branch)", span.kernel), "beside".into()),
                false => (span.kernel.clone(), share(span.sum_us)),
            };
            let micros = |us: f64| format!("{us:.1} us");
            let [start, end, sum] = [span.first_start_us, span.last_end_us, span.sum_us].map(micros);
            table.add_row([name, span.launches.to_string(), start, end, sum, share]);
        }
        let none = String::new;
        let mut total = |name: &str, us: f64| {
            table.add_row([name.into(), none(), none(), none(), format!("{us:.1} us"), share(us)]);
        };
        total("between launches", self.between_us);
        total("step, launches in series", self.step_us);
        table.to_string()
    }
}

struct TimelineTask<'a> {
    sizes: &'a Sizes,
    observer: Observer,
}

impl BackendTask for TimelineTask<'_> {
    type Output = Timeline;

    fn run<B: Backend>(self, backend: B) -> Result<Timeline> {
        let (mut model, mut state) = model_of(self.sizes, backend)?;
        self.observer.measure_launches(true)?;
        for _ in 0..=WARM_UP {
            model.train_step(&LOSS, &Adam::new(LEARNING_RATE), &mut state)?;
        }
        model.mean_loss(&state)?;
        let launches = self.observer.measured_launches()?;
        self.observer.measure_launches(false)?;
        Ok(Timeline::of(&launches))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::launchers;
    use crate::bench::sizes::SMALL;

    #[test]
    fn kernels_and_gaps_add_up_to_the_step() {
        let launch =
            |kernel, on_branch, start_us, end_us| MeasuredLaunch { kernel, on_branch, start_us, end_us };
        let timeline = Timeline::of(&[
            launch("a", false, 0.0, 2.0),
            launch("b", false, 3.0, 7.0),
            launch("c", true, 3.5, 20.0),
            launch("a", false, 8.0, 9.0),
            launch("c", false, 21.0, 22.0),
        ]);
        let spans: Vec<_> = timeline.kernels.iter().map(|span| (&*span.kernel, span.launches)).collect();
        assert_eq!(spans, [("a", 2), ("b", 1), ("c", 1), ("c", 1)]);
        let a = &timeline.kernels[0];
        assert_eq!((a.first_start_us, a.last_end_us, a.sum_us), (0.0, 9.0, 3.0));
        assert_eq!((timeline.between_us, timeline.step_us), (1.0 + 1.0 + 12.0, 22.0));
    }

    /// On the emulator, where launches run one after another.
    #[test]
    fn a_step_has_a_timeline() {
        let Ok(device) = launchers::emulated(None) else {
            println!("skipped: no emulator");
            return;
        };
        let timeline = Timeline::measure(device, Format::Bf16, &Sizes::new(SMALL, 1)).expect("a step");
        let main = timeline.kernels.iter().filter(|span| !span.on_branch);
        let sum: f64 = main.map(|span| span.sum_us).sum();
        assert!(sum > 0.0 && sum <= timeline.step_us, "{timeline:?}");
        let last = timeline.kernels.last().expect("launches");
        assert!(last.kernel.starts_with("adam_step") && timeline.step_us >= last.last_end_us, "{last:?}");
        let branch: Vec<_> = timeline.kernels.iter().filter(|span| span.on_branch).collect();
        assert_eq!(branch.len(), 1, "the updates of each layer");
        assert_eq!(branch[0].launches, SMALL.layers);
        assert!(timeline.text().lines().all(|line| line.chars().count() <= 100), "{}", timeline.text());
    }
}
