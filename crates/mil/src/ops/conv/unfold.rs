//! A convolution as slices and a 1x1 convolution.

use super::super::shape::strides;
use super::*;

/// Whether the convolution called with `args` is a linear layer of one group, without bias.
pub(crate) fn is_linear(b: &Builder, def: &'static OpDef, args: &[Option<Vec<builder::Value>>]) -> OpResult<bool> {
    let args = b.bind(def, args);
    let conv = Conv::of(&args)?;
    Ok(conv.groups == 1 && conv.windows.are_elements() && !args.has("bias"))
}

/// The convolution called with `args`, computed by slices and a 1x1 convolution named `name`; `None` if it is one
/// already. Its sizes are known.
///
/// Channel `i` at tap `k` of the kernel becomes channel `i K + k` of the columns, so that the weights
/// `[O, I, K..]` need only be looked at as `[O, I K, 1..]`, and groups stay groups.
pub(crate) fn unfold(
    b: &mut Builder,
    def: &'static OpDef,
    args: &[Option<Vec<builder::Value>>],
    name: &str,
) -> OpResult<Option<builder::Value>> {
    let Conv { windows, groups, .. } = Conv::of(&b.bind(def, args))?;
    if windows.are_elements() {
        return Ok(None);
    }
    let arg = |name: &str| Some(args[def.param(name)?.0].as_ref()?[0]);
    let (Some(x), Some(w)) = (arg("x"), arg("weight")) else { return Ok(None) };
    let mut image = x;
    for axis in 0..windows.image.len() {
        let size = windows.touched(axis).max(windows.before[axis] + windows.image[axis]);
        image = between_zeros(b, image, axis + 2, windows.before[axis], size)?;
    }
    let shape = b.shape(image)?;
    let n_taps: usize = windows.kernel.iter().product();
    let places = strides(&windows.kernel);
    let mut taps = Vec::new();
    for tap in 0..n_taps {
        let (mut begin, mut end, mut stride) = (vec![0; 2], shape[..2].to_vec(), vec![1; 2]);
        for (axis, place) in places.iter().enumerate() {
            let first = tap / place % windows.kernel[axis] * windows.dilations[axis];
            begin.push(first);
            end.push(first + (windows.out[axis] - 1) * windows.strides[axis] + 1);
            stride.push(windows.strides[axis]);
        }
        let sizes = |s: &[usize]| Tensor::i32s(&s.iter().map(|&s| s as i32).collect::<Vec<_>>());
        let slice = b
            .call("slice_by_index")
            .arg("x", image)
            .constant("begin", sizes(&begin))
            .constant("end", sizes(&end))
            .constant("stride", sizes(&stride))
            .finish()?;
        let apart: Vec<usize> = [&shape[..2], &[1], &windows.out].concat();
        taps.push(b.reshape(slice, &apart)?);
    }
    let columns = b.concat(&taps, 2)?;
    let columns = b.reshape(columns, &[&[shape[0], shape[1] * n_taps], &windows.out[..]].concat())?;
    let ws = b.shape(w)?;
    let w = b.reshape(w, &[&[ws[0], ws[1] * n_taps], &vec![1; windows.kernel.len()][..]].concat())?;
    let mut call = b.pointwise_call(columns, w)?.named(name).constant("groups", Tensor::i32(groups as i32));
    if let Some(bias) = arg("bias") {
        call = call.arg("bias", bias);
    }
    Ok(Some(call.finish()?))
}
