//! What a model takes, and whether a request is that.

use bytes::Bytes;

use crate::bytes_tensor::{BytesTensorError, split_bytes_tensor};
use crate::request::{InferRequest, id_prefix};
use crate::tensor::{InputTensor, TensorData};
use crate::{Code, DataType};

/// The inputs, outputs and batch size of a model.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// The name under which it is asked.
    pub name: String,
    /// The tensors that it needs, all of them.
    pub inputs: Vec<TensorSpec>,
    /// The tensors that it gives.
    pub outputs: Vec<TensorSpec>,
    /// The most rows of a request.
    pub max_batch_size: usize,
}

/// The name, type and shape of a tensor.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: DataType,
    /// The dimensions of one row; -1 for any.
    pub dims: Vec<i64>,
}

/// A tensor that is what the model takes: of the right type and shape, with all its elements.
#[derive(Clone, Debug)]
pub struct CheckedInput {
    /// The dimensions, the batch's first.
    pub shape: Vec<i64>,
    /// The elements: as many as the shape says, whichever form they are in. BYTES are always
    /// [`TensorData::Strings`], unless they are still in shared memory.
    pub data: TensorData,
}

/// Why a request is not what the model takes. The words are Triton's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the words are right there")]
pub enum CheckError {
    #[error("unexpected inference output '{output}' for model '{model}'")]
    UnknownOutput { output: String, model: String },
    #[error("unexpected inference input '{input}' for model '{model}'")]
    UnknownInput { input: String, model: String },
    #[error(
        "{id}expected {expected} inputs but got {got} inputs for model '{model}'. Got input(s) [{names}], but missing \
         required input(s) {missing}. Please provide all required input(s)."
    )]
    InputCount { id: String, expected: usize, got: usize, model: String, names: String, missing: String },
    #[error("{id}a raw request is for models with one input, and '{model}' has {inputs}")]
    RawInput { id: String, model: String, inputs: usize },
    #[error("{id}input '{input}' has no shape but model requires batch dimension for '{model}'")]
    NoShape { id: String, input: String, model: String },
    #[error("{id}input '{input}' batch size does not match other inputs for '{model}'")]
    BatchMismatch { id: String, input: String, model: String },
    #[error("{id}inference request batch-size must be <= {max} for '{model}'")]
    BatchSize { id: String, max: usize, model: String },
    #[error("{id}inference request batch-size must be >= 1 for '{model}'")]
    EmptyBatch { id: String, model: String },
    #[error("{id}inference input '{input}' data-type is '{got}', but model '{model}' expects '{expected}'")]
    DataType { id: String, input: String, got: &'static str, model: String, expected: DataType },
    #[error(
        "{id}unexpected shape for input '{input}' for model '{model}'. Expected {expected}, got {got}. NOTE: Setting a \
         non-zero max_batch_size in the model config requires a batch dimension to be prepended to each input shape. \
         If you want to specify the full shape including the batch dim in your input dims config, try setting \
         max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
    )]
    Shape { id: String, input: String, model: String, expected: String, got: String },
    #[error(
        "{id}All input dimensions should be specified for input '{input}' for model '{model}', got {got}"
    )]
    OpenShape { id: String, input: String, model: String, got: String },
    #[error(
        "{id}input byte size mismatch for input '{input}' for model '{model}'. Expected {expected}, got {got}"
    )]
    ByteSize { id: String, input: String, model: String, expected: usize, got: usize },
    #[error(
        "{id}unexpected number of string elements {got} for inference input '{input}' for model '{model}', expecting \
         {expected}"
    )]
    TooManyStrings { id: String, input: String, model: String, expected: usize, got: usize },
    #[error(
        "{id}expected {expected} string elements for inference input '{input}' for model '{model}', got {got}"
    )]
    TooFewStrings { id: String, input: String, model: String, expected: usize, got: usize },
    #[error(
        "{id}incomplete string length indicator for inference input '{input}' for model '{model}', expecting 4 bytes \
         but only {available} bytes available. Please make sure the string length indicator is in one buffer."
    )]
    IncompleteLength { id: String, input: String, model: String, available: usize },
    #[error(
        "incomplete string data for inference input '{input}', expecting string of length {length} but only \
         {available} bytes available"
    )]
    IncompleteString { input: String, length: usize, available: usize },
}

impl CheckError {
    /// Its class.
    pub fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl ModelSpec {
    /// Checks a request's inputs and the outputs that it asks for, and takes the inputs out of it, in the order of
    /// [`ModelSpec::inputs`]. Gives the number of rows with them.
    ///
    /// Of what is still in shared memory, the size is checked where the type has one: so it can be known before it is
    /// read whether it is worth reading.
    ///
    /// # Errors
    ///
    /// [`CheckError`]: the first thing that is wrong, in the order in which Triton looks.
    pub fn check(&self, request: &mut InferRequest) -> Result<(usize, Vec<CheckedInput>), CheckError> {
        let mut inputs = std::mem::take(&mut request.inputs);
        let id = || id_prefix(&request.id);
        if request.raw {
            self.complete_raw(&mut inputs, &request.id)?;
        }
        let unknown = request
            .outputs
            .iter()
            .map(|output| &output.name)
            .filter(|name| !self.outputs.iter().any(|spec| spec.name == **name));
        // The first in order, as Triton keeps them.
        if let Some(output) = unknown.min() {
            return Err(CheckError::UnknownOutput { output: output.clone(), model: self.name.clone() });
        }
        if inputs.len() != self.inputs.len() {
            return Err(self.wrong_count(&inputs, id()));
        }
        let rows = self.batch_size(&inputs, &request.id)?;
        if rows > self.max_batch_size as i64 {
            return Err(CheckError::BatchSize {
                id: id(),
                max: self.max_batch_size,
                model: self.name.clone(),
            });
        }
        let rows = usize::try_from(rows).unwrap_or(0);
        let mut checked = Vec::with_capacity(self.inputs.len());
        for spec in &self.inputs {
            let Some(at) = inputs.iter().position(|input| input.name == spec.name) else {
                return Err(self.wrong_count(&inputs, id()));
            };
            checked.push(self.check_input(spec, inputs.swap_remove(at), rows, request)?);
        }
        // Triton looks for elements that are missing first: it takes a batch of none for a batch of one.
        if rows == 0 {
            return Err(CheckError::EmptyBatch { id: id(), model: self.name.clone() });
        }
        Ok((rows, checked))
    }

    /// Gives the tensor of a raw request the name, type and shape of the model's only input, in a batch of one.
    fn complete_raw(&self, inputs: &mut [InputTensor], id: &str) -> Result<(), CheckError> {
        let ([spec], [input]) = (self.inputs.as_slice(), inputs) else {
            let (model, inputs) = (self.name.clone(), self.inputs.len());
            return Err(CheckError::RawInput { id: id_prefix(id), model, inputs });
        };
        input.datatype = Some(spec.datatype);
        input.shape = std::iter::once(1).chain(spec.dims.iter().copied()).collect();
        if let (DataType::Bytes, TensorData::Raw(bytes)) = (spec.datatype, &input.data) {
            input.data = TensorData::Strings(vec![bytes.clone()]);
        } else if let (Some(expected), TensorData::Raw(bytes)) = (byte_size(spec, 1), &input.data)
            && bytes.len() != expected
        {
            // Only this message still has the name that Triton gives such a tensor.
            let (input, got) = (input.name.clone(), bytes.len());
            return Err(CheckError::ByteSize {
                id: id_prefix(id),
                input,
                model: self.name.clone(),
                expected,
                got,
            });
        }
        input.name.clone_from(&spec.name);
        Ok(())
    }

    fn wrong_count(&self, inputs: &[InputTensor], id: String) -> CheckError {
        let list = |names: &mut dyn Iterator<Item = &String>| {
            names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(",")
        };
        let missing = |spec: &&TensorSpec| !inputs.iter().any(|input| input.name == spec.name);
        CheckError::InputCount {
            id,
            expected: self.inputs.len(),
            got: inputs.len(),
            model: self.name.clone(),
            // The newest first, as they lie in Triton's table.
            names: list(&mut inputs.iter().rev().map(|input| &input.name)),
            missing: match list(&mut self.inputs.iter().filter(missing).map(|spec| &spec.name)) {
                // Where Triton takes the last comma away, it meets the bracket.
                none if none.is_empty() => "]".to_owned(),
                missing => format!("[{missing}]"),
            },
        }
    }

    /// The first dimension, the same for all inputs.
    fn batch_size(&self, inputs: &[InputTensor], id: &str) -> Result<i64, CheckError> {
        let mut rows = 0;
        for input in inputs {
            let named = || (input.name.clone(), self.name.clone());
            if !self.inputs.iter().any(|spec| spec.name == input.name) {
                let (input, model) = named();
                return Err(CheckError::UnknownInput { input, model });
            }
            let Some(&first) = input.shape.first() else {
                let (input, model) = named();
                return Err(CheckError::NoShape { id: id_prefix(id), input, model });
            };
            if rows == 0 {
                rows = first;
            } else if rows != first {
                let (input, model) = named();
                return Err(CheckError::BatchMismatch { id: id_prefix(id), input, model });
            }
        }
        Ok(rows)
    }

    fn check_input(
        &self,
        spec: &TensorSpec,
        input: InputTensor,
        rows: usize,
        request: &InferRequest,
    ) -> Result<CheckedInput, CheckError> {
        let InputTensor { name, datatype, shape, data } = input;
        let id = || request.prefix();
        let model = || self.name.clone();
        if datatype != Some(spec.datatype) {
            let got = datatype.map_or("<invalid>", DataType::name);
            return Err(CheckError::DataType {
                id: id(),
                input: name,
                got,
                model: model(),
                expected: spec.datatype,
            });
        }
        let row = shape.get(1..).unwrap_or_default();
        let fits = |(&want, &got): (&i64, &i64)| want == -1 || got == -1 || want == got;
        if row.len() != spec.dims.len() || !spec.dims.iter().zip(row).all(fits) {
            let expected = show_shape(std::iter::once(&-1).chain(&spec.dims));
            let got = show_shape(&shape);
            return Err(CheckError::Shape { id: id(), input: name, model: model(), expected, got });
        }
        if row.contains(&-1) {
            let got = show_shape(&shape);
            return Err(CheckError::OpenShape { id: id(), input: name, model: model(), got });
        }
        let row_elements = row.iter().try_fold(1_usize, |count, &dimension| {
            usize::try_from(dimension).ok().and_then(|dimension| count.checked_mul(dimension))
        });
        let elements = row_elements.and_then(|count| count.checked_mul(rows.max(1))).unwrap_or(usize::MAX);
        let size = spec.datatype.size().map(|size| elements.saturating_mul(size));
        let got = match &data {
            TensorData::Raw(bytes) => bytes.len(),
            TensorData::Int64(values) => values.len() * 8,
            TensorData::Fp32(values) => values.len() * 4,
            TensorData::SharedMemory(span) => usize::try_from(span.byte_size).unwrap_or(usize::MAX),
            TensorData::Strings(_) | TensorData::Discarded => 0,
        };
        let data = match (data, size) {
            (_, Some(expected)) if got != expected => {
                return Err(CheckError::ByteSize { id: id(), input: name, model: model(), expected, got });
            }
            (TensorData::Raw(bytes), None) => {
                let strings = self.split(&bytes, elements, &name, request)?;
                TensorData::Strings(strings)
            }
            (TensorData::Strings(strings), _) => {
                self.count_strings(strings.len(), elements, &name, request)?;
                TensorData::Strings(strings)
            }
            (data, _) => data,
        };
        Ok(CheckedInput { shape, data })
    }

    fn split(
        &self,
        bytes: &Bytes,
        expected: usize,
        input: &str,
        request: &InferRequest,
    ) -> Result<Vec<Bytes>, CheckError> {
        let mut strings = Vec::new();
        let result = split_bytes_tensor(bytes, &mut strings);
        // An incomplete string counts as one: Triton notices it only when it reads the strings.
        let incomplete = matches!(result, Err(BytesTensorError::IncompleteString { .. }));
        let count = strings.len() + usize::from(incomplete);
        if let Err(BytesTensorError::IncompleteLength { available }) = result
            && count <= expected
        {
            let (input, model) = (input.to_owned(), self.name.clone());
            return Err(CheckError::IncompleteLength { id: request.prefix(), input, model, available });
        }
        self.count_strings(count, expected, input, request)?;
        if let Err(BytesTensorError::IncompleteString { length, available }) = result {
            return Err(CheckError::IncompleteString { input: input.to_owned(), length, available });
        }
        Ok(strings)
    }

    fn count_strings(
        &self,
        got: usize,
        expected: usize,
        input: &str,
        request: &InferRequest,
    ) -> Result<(), CheckError> {
        if got == expected {
            return Ok(());
        }
        let (input, model) = (input.to_owned(), self.name.clone());
        let id = request.prefix();
        if got < expected {
            return Err(CheckError::TooFewStrings { id, input, model, expected, got });
        }
        // Triton stops counting at the first that is too many.
        Err(CheckError::TooManyStrings { id, input, model, expected, got: expected + 1 })
    }
}

/// The size of `rows` rows in bytes, if it is fixed.
fn byte_size(spec: &TensorSpec, rows: usize) -> Option<usize> {
    spec.dims.iter().try_fold(spec.datatype.size()?.checked_mul(rows)?, |size, &dimension| {
        usize::try_from(dimension).ok().and_then(|dimension| size.checked_mul(dimension))
    })
}

fn show_shape<'a>(dims: impl IntoIterator<Item = &'a i64>) -> String {
    let dims: Vec<String> = dims.into_iter().map(i64::to_string).collect();
    format!("[{}]", dims.join(","))
}
