//! What a device keeps from run to run because the input it is made of has stayed the same.

use super::*;
use crate::device::Arithmetic;
use crate::soft::floats::Floats;

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
