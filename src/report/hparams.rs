//! Messages of TensorBoard's HParams plugin: the parts of its `api.proto` and `plugin_data.proto` that a run needs, and
//! protobuf's own `struct.proto`.

use std::collections::HashMap;

use prost::{Message, Oneof};

/// Status of a run that has ended without an error.
pub(super) const SUCCESS: i32 = 1;

/// Content of one summary.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PluginData {
    #[prost(int32, tag = "1")]
    pub version: i32,
    #[prost(oneof = "Of", tags = "2, 3, 4")]
    pub of: Option<Of>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Of {
    #[prost(message, tag = "2")]
    Experiment(Experiment),
    #[prost(message, tag = "3")]
    Start(RunStart),
    #[prost(message, tag = "4")]
    End(RunEnd),
}

/// Names of options and results.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Experiment {
    #[prost(message, repeated, tag = "4")]
    pub hparam_infos: Vec<HParamInfo>,
    #[prost(message, repeated, tag = "5")]
    pub metric_infos: Vec<MetricInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HParamInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    /// 1 for texts, 2 for truth values, 3 for numbers.
    #[prost(int32, tag = "4")]
    pub kind: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricInfo {
    #[prost(message, optional, tag = "1")]
    name: Option<MetricName>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricName {
    #[prost(string, tag = "2")]
    tag: String,
}

/// Options of a run, at its start.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RunStart {
    #[prost(map = "string, message", tag = "1")]
    pub hparams: HashMap<String, Value>,
    #[prost(double, tag = "5")]
    pub start_time_secs: f64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RunEnd {
    #[prost(int32, tag = "1")]
    pub status: i32,
    #[prost(double, tag = "2")]
    pub end_time_secs: f64,
}

/// Value of an option.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(oneof = "Kind", tags = "2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Kind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Truth(bool),
}

impl Value {
    /// The value of an option; `None` for null, lists and objects.
    pub fn of(value: &serde_json::Value) -> Option<Self> {
        let kind = match value {
            serde_json::Value::Number(number) => Kind::Number(number.as_f64()?),
            serde_json::Value::String(text) => Kind::Text(text.clone()),
            serde_json::Value::Bool(truth) => Kind::Truth(*truth),
            _ => return None,
        };
        Some(Value { kind: Some(kind) })
    }

    /// See [`HParamInfo::kind`].
    pub fn kind(&self) -> i32 {
        match &self.kind {
            Some(Kind::Text(_)) => 1,
            Some(Kind::Truth(_)) => 2,
            Some(Kind::Number(_)) => 3,
            None => 0,
        }
    }
}

impl MetricInfo {
    /// Result with the tag of a scalar.
    pub fn of(tag: &str) -> Self {
        MetricInfo { name: Some(MetricName { tag: tag.into() }) }
    }
}
