//! What a device keeps from run to run because the input it is made of has stayed the same.

use super::*;
use crate::device::Arithmetic;
use crate::soft::floats::Floats;
use crate::soft::steps::Work;

fn for_device(program: &ValidProgram) -> Plan {
    Plan::for_device(program.main(), &Weights::new(), Arithmetic::Ieee).unwrap()
}

#[test]
fn what_is_kept_stays_when_outputs_are_swapped() {
    let square = fp32(&[2, 2]);
    let p = program(&[square.clone(), square], |b, v| {
        let y = b.transpose(v[0], &[1, 0])?;
        let z = b.matmul(y, v[1], false, false)?;
        Ok(vec![y, z])
    });
    let plan = for_device(&p.unwrap());
    let mut memory = plan.memory();
    memory.write_input(&plan, 0, &[1.0, 2.0, 3.0, 4.0]);
    memory.write_input(&plan, 1, &[1.0, 0.0, 0.0, 1.0]);
    // Each run writes into buffers of its own, which hold something else.
    for n in 0..4 {
        let mut outputs = [(); 2].map(|()| Floats::from(&[7.0; 4][..]));
        let swap = |memory: &mut crate::soft::memory::Memory, outputs: &mut [Floats; 2]| {
            let swapped = outputs.iter_mut().enumerate().map(|(i, out)| memory.swap_output(&plan, i, out));
            swapped.collect::<Vec<_>>()
        };
        swap(&mut memory, &mut outputs);
        plan.run(&mut memory).unwrap();
        for (i, is_swapped) in swap(&mut memory, &mut outputs).into_iter().enumerate() {
            let found = if is_swapped { &outputs[i][..] } else { memory.output(&plan, i) };
            assert_eq!(found, [1.0, 3.0, 2.0, 4.0], "run {n}, output {i}");
        }
    }
}

#[test]
fn an_input_is_packed_once_it_stays_and_then_at_once_as_long_as_it_does() {
    let square = fp32(&[2, 2]);
    let p = program(&[square.clone(), square], |b, v| Ok(vec![b.matmul(v[0], v[1], false, false)?]));
    let plan = for_device(&p.unwrap());
    let pack = plan.steps().iter().position(|s| matches!(s.work, Work::Pack { is_lazy: true, .. })).unwrap();
    let mut memory = plan.memory();
    memory.write_input(&plan, 1, &[1.0, 0.0, 0.0, 1.0]);
    // A number stands for a matrix, the same as before not written again, and then for whether it is packed.
    for (x, is_packed) in
        [(1, false), (1, true), (1, true), (2, true), (3, false), (4, false), (4, true), (5, true)]
    {
        let x = [x as f32, 2.0, 3.0, 4.0];
        if memory.input(&plan, 0) != x {
            memory.write_input(&plan, 0, &x);
        }
        plan.run(&mut memory).unwrap();
        assert_eq!(memory.output(&plan, 0), x);
        assert_eq!(memory.done[pack] == memory.versions[0], is_packed, "{x:?}");
    }
}

#[test]
fn what_depends_on_two_inputs_is_not_kept_for_one() {
    // `begin` is of a type that only references touch.
    let p = program(&[fp32(&[4, 2]), fp32(&[2]), fp32(&[2, 2])], |b, v| {
        let begin = b.cast(v[1], DType::Int16)?;
        let size = Tensor::int(DType::Int16, &[2], vec![2, 2]);
        let x = b.call("slice_by_size").arg("x", v[0]).arg("begin", begin).constant("size", size).finish()?;
        Ok(vec![b.matmul(x, v[2], false, false)?])
    });
    let plan = for_device(&p.unwrap());
    let mut memory = plan.memory();
    let x: Vec<f32> = (0..8u8).map(f32::from).collect();
    memory.write_input(&plan, 0, &x);
    memory.write_input(&plan, 2, &[1.0, 0.0, 0.0, 1.0]);
    for n in [0u8, 2, 1, 1, 0] {
        memory.write_input(&plan, 1, &[n.into(), 0.0]);
        plan.run(&mut memory).unwrap();
        assert_eq!(memory.output(&plan, 0), &x[2 * usize::from(n)..][..4], "from row {n}");
    }
}

#[test]
fn a_step_that_has_failed_is_not_done() {
    let p = program(&[fp32(&[2, 2]), fp32(&[2, 2])], |b, v| {
        let rows = b.slice(v[0], &[0, 0], &[2, 1])?;
        let rows = b.reshape(rows, &[2])?;
        let rows = b.cast(rows, DType::Int32)?;
        let x = b.call("gather").arg("x", v[0]).arg("indices", rows).constant("axis", Tensor::i32(0)).finish()?;
        Ok(vec![b.matmul(x, v[1], false, false)?])
    });
    let plan = for_device(&p.unwrap());
    let mut memory = plan.memory();
    memory.write_input(&plan, 1, &[1.0, 0.0, 0.0, 1.0]);
    memory.write_input(&plan, 0, &[1.0, 5.0, 0.0, 6.0]);
    plan.run(&mut memory).unwrap();
    assert_eq!(memory.output(&plan, 0), [0.0, 6.0, 1.0, 5.0]);
    memory.write_input(&plan, 0, &[9.0, 5.0, 0.0, 6.0]);
    for n in 0..3 {
        assert!(plan.run(&mut memory).is_err(), "run {n}");
    }
}
