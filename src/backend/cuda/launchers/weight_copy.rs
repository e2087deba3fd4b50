//! Copy of the linear weights in bf16, which the products read. The parameters stay in single precision. Adam
//! writes both in one pass (`kernels/adam.cu`).
//!
//! Every weight `[O, I]` is stored row by row, with rows padded like stored rows ([`StoredElement`]). The
//! weight of `edge.hidden`, `[H, 3 D]`, is used as three matrices (`layer_input.rs`), whose rows must begin
//! at multiples of 16 bytes. It is therefore stored as `[3 H, D]`, where row `3 o + p` is part p of output o.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::linear::Matrix;
use super::stored::StoredElement;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::device::buffer::{Buffer, Element, Slice, SliceMut};
use crate::backend::cuda::device::kernel::int;
use crate::error::Result;
use crate::network::parameters::{BlockKind, Layout};

/// The copy, and the position of each weight in it.
pub struct WeightCopy {
    values: Buffer<bf16>,
    /// `[S]` segments, one per weight.
    segments: Buffer<WeightSegment>,
    places: Vec<[CopiedWeight; 4]>,
    /// Number of parameters.
    parameter_count: usize,
}

/// A weight in the kernel's form (`WeightSegment` in `kernels/adam.cu`).
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct WeightSegment {
    /// Index of the first parameter.
    first: i32,
    /// Index after the last parameter.
    end: i32,
    /// Number of values in a row.
    width: i32,
    /// Stride of the rows in the copy.
    stride: i32,
    /// Start in the copy.
    at: i32,
}

impl Element for WeightSegment {
    const C_TYPE: &'static str = "WeightSegment";
}

/// A weight in the copy: rows of `columns` values, `stride` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopiedWeight {
    /// Start of the first row.
    pub start: usize,
    /// Number of rows: O, or 3 H for `edge.hidden`.
    pub rows: usize,
    /// Number of columns: I, or D for `edge.hidden`.
    pub columns: usize,
    /// Stride of the rows.
    pub stride: usize,
}

impl CopiedWeight {
    /// Part 0, 1 or 2 (subject, edge, object) of `edge.hidden`: a matrix `[H, D]` of every third row.
    pub fn part(self, part: usize) -> Self {
        CopiedWeight {
            start: self.start + part * self.stride,
            rows: self.rows / 3,
            columns: self.columns,
            stride: 3 * self.stride,
        }
    }
}

/// Weights of the network, in the form that products read.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// Positions of the weights among the parameters.
    pub layout: &'a Layout,
    /// All parameters, flat.
    pub values: &'a Buffer<f32>,
    /// Copy of the weights in bf16, if products read it.
    pub copy: Option<&'a WeightCopy>,
}

impl<'a> Weights<'a> {
    /// Weight `[O, I]` of a block; for `edge.hidden` `[H, 3 stride(D)]`, its three parts `[H, D]` side by
    /// side.
    pub(crate) fn of<T: StoredElement>(self, layer: usize, kind: BlockKind) -> Matrix<'a, T> {
        let (block, width) = (self.layout.block(layer, kind), self.layout.config.state_width);
        let columns = match kind {
            BlockKind::EdgeHidden => 3 * T::stride(width),
            _ => block.inputs,
        };
        let values = T::choose(|| self.in_parameters(layer, kind), || self.in_copy(layer, kind));
        Matrix::new(values, block.outputs, columns)
    }

    /// Weight among the parameters.
    fn in_parameters(self, layer: usize, kind: BlockKind) -> Slice<'a, f32> {
        self.values.slice(self.layout.block(layer, kind).weight.clone())
    }

    /// Weight in the copy.
    fn in_copy(self, layer: usize, kind: BlockKind) -> Slice<'a, bf16> {
        let copy = self.copy.expect("a copy of the weights, which parameters_loaded makes");
        let CopiedWeight { start, rows, stride, .. } = copy.place(layer, kind);
        copy.values().slice(start..start + rows * stride)
    }
}

impl WeightCopy {
    /// Allocates a copy for the weights of this layout; [`super::adam::weight_copy`] fills it.
    pub fn new(device: &Device, layout: &Layout) -> Result<Self> {
        let (mut len, mut segments) = (0, Vec::new());
        let mut place = |layer: usize, kind: BlockKind| {
            let block = layout.block(layer, kind);
            let columns = match kind {
                BlockKind::EdgeHidden => layout.config.state_width,
                _ => block.inputs,
            };
            let (rows, stride) = (block.weight.len() / columns, bf16::stride(columns));
            let copied = CopiedWeight { start: len, rows, columns, stride };
            len += rows * stride;
            let [first, end, width, stride, at] =
                [block.weight.start, block.weight.end, columns, stride, copied.start].map(int);
            segments.push(WeightSegment { first, end, width, stride, at });
            copied
        };
        let places: Vec<[CopiedWeight; 4]> =
            (0..layout.config.layers).map(|layer| BlockKind::ALL.map(|kind| place(layer, kind))).collect();
        Ok(WeightCopy {
            values: device.allocate(len)?,
            segments: device.allocate_copy(&segments)?,
            places,
            parameter_count: layout.parameter_count,
        })
    }

    /// Position of a block's weight.
    pub fn place(&self, layer: usize, kind: BlockKind) -> CopiedWeight {
        self.places[layer][kind as usize]
    }

    /// All values of the copy.
    pub fn values(&self) -> Slice<'_, bf16> {
        self.values.slice(0..self.values.len())
    }

    /// Downloads all values of the copy.
    pub fn download(&self, device: &Device) -> Result<Vec<bf16>> {
        device.download(&self.values, 0..self.values.len())
    }

    /// Arguments for the kernel: the copy and its segments.
    pub(crate) fn parts(&mut self) -> (SliceMut<'_, bf16>, Slice<'_, WeightSegment>) {
        let WeightCopy { values, segments, .. } = self;
        let len = values.len();
        (values.slice_mut(0..len), segments.slice(0..segments.len()))
    }

    /// Panics unless the layout has `parameter_count` parameters.
    #[track_caller]
    pub(crate) fn check(&self, parameter_count: usize) {
        assert_eq!(parameter_count, self.parameter_count, "a copy of other parameters' weights");
    }
}
