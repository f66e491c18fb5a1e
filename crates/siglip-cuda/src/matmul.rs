//! One product of cuBLASLt: activations by constant weights, with bias and what comes after it in the same kernel.
//!
//! cuBLASLt counts columns first. Our row-major `out[rows, outputs] = input[rows, inputs] · weight[outputs, inputs]ᵀ` is
//! to it the product of the transposed weight, `inputs × outputs`, and the input, `inputs × rows`; so its bias, one value
//! a row of its result, is one a column of ours.
//!
//! What cuBLASLt asks of e4m3 operands, as its documentation of `cublasLtMatmul` says: the first one transposed and the
//! second not, which is how ours are; addresses and rows of multiples of 16 bytes, so widths are checked when an engine is
//! built; scales on the card; results and biases in bf16, or results in e4m3 or f32 with biases in bf16. XLA found that a
//! vector of biases and a matrix that is added do not go together there (tensorflow/tensorflow#60020), so the layer norm
//! before it adds the bias of fc2.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use crate::error::CudaError;
use crate::ffi::cublaslt::{
    Algorithm, COMPUTE_32F, DESC_A_SCALE_POINTER, DESC_B_SCALE_POINTER, DESC_BIAS_DATA_TYPE,
    DESC_BIAS_POINTER, DESC_D_SCALE_POINTER, DESC_EPILOGUE, DESC_FAST_ACCUM, DESC_TRANSA, EPILOGUE_BIAS,
    EPILOGUE_DEFAULT, EPILOGUE_GELU_BIAS, Handle, HeuristicResult, OP_T, PREF_MAX_WORKSPACE_BYTES,
    PREF_MIN_ALIGNMENTS, PREF_REDUCTION_SCHEME_MASK,
};
use crate::gpu::Gpu;
use crate::memory::{DeviceBuffer, View};
use crate::number::Number;
use crate::stream::Stream;

/// Scratch memory that an algorithm may use. NVIDIA recommends 32 MiB for Hopper.
pub(crate) const WORKSPACE_BYTES: usize = 32 << 20;
/// Algorithms asked for, fastest first by cuBLASLt's own estimate.
const CANDIDATES: usize = 8;

/// Everything about a product that its algorithm depends on, but the number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// Of the operands.
    pub(crate) number: Number,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Values from one row of the input to the next.
    pub(crate) input_stride: usize,
    /// Values from one row of the result to the next.
    pub(crate) out_stride: usize,
    pub(crate) result: ResultKind,
}

/// What a product's result is and what happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ResultKind {
    /// Plus bias, in the operands' format; bf16 for e4m3.
    Bias,
    /// Plus bias, then GELU in its tanh form, in the operands' format.
    Gelu,
    /// Plus bias, in f32.
    Wide,
    /// Plus bias (but for e4m3), added to what is there: the residual stream, with its scale.
    Add,
    /// The same where what is there is f32, and has no scale.
    AddWide,
}

impl ResultKind {
    /// The format of the result, for operands of a format.
    pub(crate) fn number(self, operands: Number) -> Number {
        match self {
            ResultKind::Bias | ResultKind::Add => operands.beside(),
            ResultKind::Gelu => operands,
            ResultKind::Wide | ResultKind::AddWide => Number::F32,
        }
    }

    /// The format of the bias.
    pub(crate) fn bias_number(self, operands: Number) -> Number {
        match (self, operands) {
            (ResultKind::Add, Number::E4m3) => Number::F32,
            (_, Number::E4m3) => Number::Bf16,
            _ => self.number(operands),
        }
    }
}

impl Shape {
    pub(crate) fn result_number(&self) -> Number {
        self.result.number(self.number)
    }

    /// The format of the matrix that is added, which there is to cuBLASLt also where it is not read.
    fn added_number(&self) -> Number {
        self.result_number().beside()
    }

    /// What the product is multiplied by, its bias not.
    pub(crate) fn alpha(&self) -> f32 {
        match self.result {
            ResultKind::Add => self.number.residual_scale(),
            _ => 1.0,
        }
    }

    /// Whether it is added to what is there.
    pub(crate) fn is_added(&self) -> bool {
        matches!(self.result, ResultKind::Add | ResultKind::AddWide)
    }

    /// What of the matrix that is there is added.
    fn beta(&self) -> f32 {
        if self.is_added() { 1.0 } else { 0.0 }
    }

    /// Whether the bias is added with it.
    pub(crate) fn has_bias(&self) -> bool {
        self.epilogue() != EPILOGUE_DEFAULT
    }

    /// It, for people.
    pub(crate) fn describe(&self, rows: usize) -> String {
        let Shape { inputs, outputs, .. } = self;
        format!("a product of {rows} × {inputs} by {inputs} × {outputs} in {}", self.number.precision())
    }

    fn epilogue(&self) -> u32 {
        match (self.result, self.number) {
            (ResultKind::Gelu, _) => EPILOGUE_GELU_BIAS,
            (ResultKind::Add, Number::E4m3) => EPILOGUE_DEFAULT,
            _ => EPILOGUE_BIAS,
        }
    }

    /// Bytes from the first value of the input to the last.
    pub(crate) fn input_bytes(&self, rows: usize) -> usize {
        ((rows - 1) * self.input_stride + self.inputs) * self.number.size()
    }

    /// Bytes from the first value of the result to the last.
    pub(crate) fn out_bytes(&self, rows: usize) -> usize {
        ((rows - 1) * self.out_stride + self.outputs) * self.result_number().size()
    }

    /// What the addresses of weight, input, result so far and result are multiples of, in bytes. Operands may begin at any
    /// row of a buffer, and buffers begin at multiples of 256.
    fn alignments(&self) -> [u32; 4] {
        let of = |row: usize, stride: usize, number: Number| {
            // The largest power of two that divides both, and no more than tensor cores ask for.
            1 << ((row | stride) * number.size()).trailing_zeros().min(MOST_ALIGNMENT.ilog2())
        };
        let weight = of(self.inputs, self.inputs, self.number);
        let input = of(self.inputs, self.input_stride, self.number);
        let out = of(self.outputs, self.out_stride, self.result_number());
        // What is added is the result so far, and lies where it does.
        [weight, input, out, out]
    }

    pub(crate) fn weight_bytes(&self) -> usize {
        self.outputs * self.inputs * self.number.size()
    }

    pub(crate) fn bias_bytes(&self) -> usize {
        self.outputs * self.result.bias_number(self.number).size()
    }
}

/// The operands of a product.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    pub(crate) input: View<'a>,
    pub(crate) weight: View<'a>,
    pub(crate) bias: View<'a>,
    /// For e4m3.
    pub(crate) scales: Option<Scales<'a>>,
    pub(crate) out: View<'a>,
}

/// Where the scales of a product are: an f32 each, what weight, input and result are multiplied by.
#[derive(Clone, Copy)]
pub(crate) struct Scales<'a> {
    weight: View<'a>,
    input: View<'a>,
    out: View<'a>,
}

impl<'a> Scales<'a> {
    /// Bytes from one to the next: no alignment that anyone asks for is more.
    const APART: usize = 16;

    /// Puts them onto a card.
    pub(crate) fn upload(gpu: &Arc<Gpu>, [weight, input, out]: [f32; 3]) -> Result<DeviceBuffer, CudaError> {
        let mut bytes = vec![0; 3 * Self::APART];
        for (place, scale) in bytes.chunks_mut(Self::APART).zip([weight, input, out]) {
            place[..4].copy_from_slice(&scale.to_le_bytes());
        }
        DeviceBuffer::with(gpu, "the scales of a tensor", &bytes)
    }

    /// Of what [`Scales::upload`] made.
    pub(crate) fn of(buffer: &'a DeviceBuffer) -> Scales<'a> {
        let at = |index: usize| buffer.view().skip(index * Self::APART);
        Scales { weight: at(0), input: at(1), out: at(2) }
    }
}

/// An algorithm and the scratch memory that it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) algorithm: Algorithm,
    pub(crate) workspace_bytes: usize,
}

/// A product that cuBLASLt has been told of.
pub(crate) struct Matmul<'a> {
    gpu: &'a Gpu,
    shape: Shape,
    rows: usize,
    description: Owned<'a>,
    weight: Owned<'a>,
    input: Owned<'a>,
    added: Owned<'a>,
    out: Owned<'a>,
}

impl<'a> Matmul<'a> {
    pub(crate) fn new(gpu: &'a Gpu, shape: Shape, rows: usize) -> Result<Self, CudaError> {
        let blas = &*gpu.libraries.cublaslt;
        let mut description = Owned { handle: ptr::null_mut(), destroy: blas.cublasLtMatmulDescDestroy, gpu };
        // SAFETY: writes one handle.
        let status = unsafe {
            (blas.cublasLtMatmulDescCreate)(&raw mut description.handle, COMPUTE_32F, Number::F32.data_type())
        };
        blas.check("cublasLtMatmulDescCreate", status)?;
        let matmul = Matmul {
            gpu,
            shape,
            rows,
            description,
            weight: layout(gpu, shape.number, [shape.inputs, shape.outputs], shape.inputs)?,
            input: layout(gpu, shape.number, [shape.inputs, rows], shape.input_stride)?,
            added: layout(gpu, shape.added_number(), [shape.outputs, rows], shape.out_stride)?,
            out: layout(gpu, shape.result_number(), [shape.outputs, rows], shape.out_stride)?,
        };
        matmul.set(DESC_TRANSA, &OP_T)?;
        matmul.set(DESC_EPILOGUE, &shape.epilogue())?;
        if shape.number == Number::E4m3 {
            matmul.set(DESC_BIAS_DATA_TYPE, &Number::Bf16.data_type())?;
            matmul.set(DESC_FAST_ACCUM, &1_i8)?;
        }
        Ok(matmul)
    }

    /// Algorithms for it, none of which splits k over blocks.
    pub(crate) fn candidates(&self) -> Result<Vec<Choice>, CudaError> {
        let blas = &*self.gpu.libraries.cublaslt;
        let mut preference =
            Owned { handle: ptr::null_mut(), destroy: blas.cublasLtMatmulPreferenceDestroy, gpu: self.gpu };
        // SAFETY: writes one handle.
        let status = unsafe { (blas.cublasLtMatmulPreferenceCreate)(&raw mut preference.handle) };
        blas.check("cublasLtMatmulPreferenceCreate", status)?;
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: reads as many bytes as the value has.
            let status = unsafe {
                (blas.cublasLtMatmulPreferenceSetAttribute)(preference.handle, attribute, value, bytes)
            };
            blas.check("cublasLtMatmulPreferenceSetAttribute", status)
        };
        let (workspace, no_reductions) = (WORKSPACE_BYTES as u64, 0_u32);
        set(PREF_MAX_WORKSPACE_BYTES, (&raw const workspace).cast(), 8)?;
        set(PREF_REDUCTION_SCHEME_MASK, (&raw const no_reductions).cast(), 4)?;
        for (attribute, alignment) in PREF_MIN_ALIGNMENTS.into_iter().zip(self.shape.alignments()) {
            set(attribute, (&raw const alignment).cast(), 4)?;
        }

        let mut results = [HeuristicResult::default(); CANDIDATES];
        let mut returned = 0;
        // SAFETY: all handles are open; writes at most as many results as there is room for.
        let status = unsafe {
            (blas.cublasLtMatmulAlgoGetHeuristic)(
                self.gpu.blas,
                self.description.handle,
                self.weight.handle,
                self.input.handle,
                self.added.handle,
                self.out.handle,
                preference.handle,
                CANDIDATES as c_int,
                results.as_mut_ptr(),
                &raw mut returned,
            )
        };
        // That there is none is for the caller to judge: another number of rows may do.
        if status == NOT_SUPPORTED {
            return Ok(Vec::new());
        }
        blas.check("cublasLtMatmulAlgoGetHeuristic", status)?;
        let usable = results.iter().take(usize::try_from(returned).unwrap_or(0));
        let usable = usable.filter(|result| result.state == 0 && result.workspace_bytes <= WORKSPACE_BYTES);
        let choice = |result: &HeuristicResult| Choice {
            algorithm: result.algorithm,
            workspace_bytes: result.workspace_bytes,
        };
        Ok(usable.map(choice).collect())
    }

    /// Puts it into the stream.
    pub(crate) fn run(
        &self,
        operands: &Operands<'_>,
        choice: &Choice,
        workspace: View<'_>,
        stream: &Stream,
    ) -> Result<(), CudaError> {
        let blas = &*self.gpu.libraries.cublaslt;
        if self.shape.has_bias() {
            self.set(DESC_BIAS_POINTER, &operands.bias.holding(self.shape.bias_bytes()))?;
        }
        if let Some(scales) = operands.scales {
            self.set(DESC_A_SCALE_POINTER, &scales.weight.holding(4))?;
            self.set(DESC_B_SCALE_POINTER, &scales.input.holding(4))?;
            if self.shape.result_number() == Number::E4m3 {
                self.set(DESC_D_SCALE_POINTER, &scales.out.holding(4))?;
            }
        }
        let (alpha, beta) = (self.shape.alpha(), self.shape.beta());
        let out = operands.out.holding(self.shape.out_bytes(self.rows));
        // cuBLASLt takes one address for both only if both have one layout, also where nothing is added.
        let in_place = self.shape.added_number() == self.shape.result_number();
        let added = if in_place { out } else { 0 };
        // SAFETY: the operands were checked to be as long as the layouts say; alpha and beta are on the host, as the
        // description's default is; the result may be added to itself in place, its layout being the same; where beta is 0,
        // nothing that is added is read.
        let status = unsafe {
            (blas.cublasLtMatmul)(
                self.gpu.blas,
                self.description.handle,
                (&raw const alpha).cast(),
                address(operands.weight.holding(self.shape.weight_bytes())),
                self.weight.handle,
                address(operands.input.holding(self.shape.input_bytes(self.rows))),
                self.input.handle,
                (&raw const beta).cast(),
                address(added),
                self.added.handle,
                address(out).cast_mut(),
                self.out.handle,
                &raw const choice.algorithm,
                address(workspace.holding(choice.workspace_bytes)).cast_mut(),
                choice.workspace_bytes,
                stream.handle(),
            )
        };
        blas.check("cublasLtMatmul", status)
    }

    fn set<T: Copy>(&self, attribute: c_int, value: &T) -> Result<(), CudaError> {
        let blas = &*self.gpu.libraries.cublaslt;
        let value = ptr::from_ref(value).cast();
        // SAFETY: reads as many bytes as the value has.
        let status = unsafe {
            (blas.cublasLtMatmulDescSetAttribute)(self.description.handle, attribute, value, size_of::<T>())
        };
        blas.check("cublasLtMatmulDescSetAttribute", status)
    }
}

/// Bytes that the fastest algorithms want operands to lie at multiples of.
const MOST_ALIGNMENT: u32 = 16;
/// `CUBLAS_STATUS_NOT_SUPPORTED`.
const NOT_SUPPORTED: c_int = 15;

fn address(pointer: u64) -> *const c_void {
    ptr::without_provenance(pointer as usize)
}

fn layout(gpu: &Gpu, number: Number, size: [usize; 2], ld: usize) -> Result<Owned<'_>, CudaError> {
    let blas = &*gpu.libraries.cublaslt;
    let mut layout = Owned { handle: ptr::null_mut(), destroy: blas.cublasLtMatrixLayoutDestroy, gpu };
    let [rows, columns] = size.map(|size| size as u64);
    // SAFETY: writes one handle.
    let status = unsafe {
        (blas.cublasLtMatrixLayoutCreate)(
            &raw mut layout.handle,
            number.data_type(),
            rows,
            columns,
            ld as i64,
        )
    };
    blas.check("cublasLtMatrixLayoutCreate", status)?;
    Ok(layout)
}

/// A handle of cuBLASLt's, destroyed when dropped.
struct Owned<'a> {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
    /// Keeps the library open.
    #[expect(dead_code, reason = "held, not read")]
    gpu: &'a Gpu,
}

impl Drop for Owned<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: created by the function that `destroy` belongs to.
            unsafe { (self.destroy)(self.handle) };
        }
    }
}
