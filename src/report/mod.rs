//! Output for people: tables, plots, drawings, TensorBoard events.

mod hparams;
pub mod panels;
pub mod plots;
pub mod projector;
pub mod run_log;
pub mod scene;
pub mod scene_boxes;
pub mod scene_drawing;
pub mod similarity_curves;
pub mod table;
pub mod tensorboard;
