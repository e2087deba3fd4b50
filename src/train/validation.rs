//! Validation of a training, and what it leaves for TensorBoard's projector.

use super::training::{Running, Training};
use crate::backend::Backend;
use crate::data::Split;
use crate::error::Result;
use crate::evaluation::embed::embed_on_device;
use crate::evaluation::{Embeddings, row_kendall};
use crate::progress::Progress;
use crate::report::projector::{Projected, write_projector};

/// Least number of images for a rank correlation on the validation split.
const LEAST_VALIDATION_IMAGES: usize = 3;

impl Training<'_> {
    /// Row-wise Kendall tau of the validation images, computed by rank 0; `None` if there are too few.
    pub(super) fn validate<B: Backend>(&self, running: &mut Running<B>) -> Result<Option<f64>> {
        let ranks = &self.control.ranks;
        let tau = if ranks.is_first() { self.validate_here(running)? } else { None };
        let [is_some, value] = ranks.of_first([f64::from(tau.is_some()), tau.unwrap_or_default()]);
        Ok((is_some > 0.0).then_some(value))
    }

    fn validate_here<B: Backend>(&self, running: &mut Running<B>) -> Result<Option<f64>> {
        let Running { model, progress, validated, .. } = running;
        let images = self.dataset.split(Split::Validation);
        if images.len() < LEAST_VALIDATION_IMAGES {
            return Ok(None);
        }
        let bar = Progress::new("validation", Some(images.len() as u64), "images");
        let graphs = images.clone().map(|image| self.dataset.graph(image));
        let on_device = embed_on_device(model, graphs, |count| bar.advance(count as u64))?;
        let width = self.config.model.state_width;
        let embeddings = model.backend().download(&on_device, 0..images.len() * width)?;
        self.check_finite("an embedding", &embeddings, progress)?;
        let rows = Embeddings::new(&embeddings, width)?;
        let tau = row_kendall(model.backend(), rows, &on_device, self.similarity, images)?;
        *validated = embeddings;
        bar.finish();
        self.check_files()?;
        Ok(Some(tau))
    }

    /// Writes embeddings with their names for TensorBoard's projector: those of the object types, and of the validation
    /// images if this command has validated.
    pub(super) fn project<B: Backend>(&self, running: &mut Running<B>) -> Result<()> {
        let dataset = self.dataset;
        let width = self.config.model.state_width;
        let tensors = running.model.tensors()?;
        let objects = &tensors["object_embedding.weight"].values;
        let names = (0..dataset.object_count()).map(|object| dataset.object_name(object).to_string());
        let mut sets = vec![Projected { name: "objects", values: objects, names: names.collect() }];
        if !running.validated.is_empty() {
            let images = dataset.split(Split::Validation);
            let name = |image| {
                let caption = dataset.captions(image).next().unwrap_or_default();
                format!("{} {}", dataset.image_id(image), caption.trim())
            };
            let names = images.map(name).collect();
            sets.push(Projected { name: "validation-images", values: &running.validated, names });
        }
        write_projector(self.run, &sets, width)
    }
}
