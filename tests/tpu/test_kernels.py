# SPDX-License-Identifier: Apache-2.0
"""The kernels of symmetric products, compiled for v5e and v5p by the TPU compiler.

The compiler refuses a kernel that needs more VMEM than it asked for. What it says about
speed stands in the table of `benchmarks/kernels.py`.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from orthoptax.matrix.pallas import blocks, pallas_products
from tests.tpu.topologies import compile, mesh

CHIPS = ["v5e:2x2", "v5p:2x2x1"]
DTYPES = [jnp.float32, jnp.bfloat16]
USED = re.compile(
    r'custom_call_target="tpu_custom_call".*'
    r'"used_scoped_memory_configs":\[\{"memory_space":"1","offset":"0","size":"(\d+)"'
)
chips = pytest.mark.parametrize("chip", CHIPS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@functools.cache
def four(chip):
    """The four chips as a mesh."""
    return mesh(chip, d=4, axis_type=AxisType.Auto)


def on(chip, *shape, dtype):
    """An array of one chip."""
    one = Mesh(four(chip).devices[:1], ("d",))
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(one, P()))


def kernels(compiled):
    """Bytes of VMEM that each kernel of a program uses."""
    return [int(found) for found in USED.findall(compiled.as_text())]


def same(dtype):
    """Products that multiply and store in one dtype."""
    return pallas_products(compute_dtype=dtype, dtype=dtype)


@chips
@dtypes
@pytest.mark.parametrize("m", [256, 768, 2048, 8192])
def test_a_stage_is_one_kernel_and_nothing_besides(chip, dtype, m):
    a = on(chip, 2, m, m, dtype=dtype)
    compiled = compile(lambda a: same(dtype).combined(a, a, a, (1.0, 2.0, 3.0)), a)
    cut = blocks(m, m, dtype)
    (used,) = kernels(compiled)
    assert used <= cut.vmem
    cost = compiled.cost_analysis()
    assert cost["flops"] == 2 * cut.flops
    assert re.search(r"= \S+ (fusion|copy|pad|transpose)\(", compiled.as_text()) is None


@chips
@dtypes
@pytest.mark.parametrize(("m", "k"), [(768, 3072), (2048, 8192), (8192, 28672)])
def test_gram_of_wide_matrices(chip, dtype, m, k):
    compiled = compile(same(dtype).gram, on(chip, 1, m, k, dtype=dtype))
    (used,) = kernels(compiled)
    assert used <= blocks(m, k, dtype).vmem


@chips
@pytest.mark.parametrize("m", [1000, 1100])
def test_sides_that_no_block_divides(chip, m):
    a = on(chip, m, m, dtype=jnp.float32)
    assert len(kernels(compile(pallas_products().commuting, a, a))) == 1


@chips
@pytest.mark.parametrize("m", [768, 2048])
@pytest.mark.parametrize(
    "how",
    [{"precision": "high"}, {"precision": "default"}, {"compute_dtype": jnp.bfloat16}],
    ids=str,
)
def test_products_in_fewer_passes(chip, m, how):
    a = on(chip, m, m, dtype=jnp.float32)
    (used,) = kernels(compile(pallas_products(**how).commuting, a, a))
    assert used <= blocks(m, m, jnp.float32).vmem


@chips
def test_a_loop_over_stages_of_mapped_matrices(chip):
    """Weights of each matrix that are not known when the program is compiled."""
    products = pallas_products()

    def polar(x, weights):
        def stage(x, w):
            a = products.gram(x)
            return products.combined(a, a, a, w) @ x, None

        return jax.lax.scan(stage, x, weights)[0]

    x = on(chip, 3, 768, 768, dtype=jnp.float32)
    weights = on(chip, 3, 5, 3, dtype=jnp.float32)
    assert len(kernels(compile(jax.vmap(polar), x, weights))) == 2


@chips
@pytest.mark.parametrize("check_vma", [True, False])
def test_each_chip_its_own_inside_shard_map(chip, check_vma):
    devices, products = four(chip), pallas_products()
    step = jax.shard_map(
        lambda x, plus: products.combined(x, x, plus, (1.0, 2.0, 3.0)),
        mesh=devices,
        in_specs=(P("d"), P()),
        out_specs=P("d"),
        check_vma=check_vma,
    )
    put = lambda n, spec: jax.ShapeDtypeStruct(
        (n, 768, 768), jnp.float32, sharding=NamedSharding(devices, spec)
    )
    compiled = compile(step, put(8, P("d")), put(1, P()))
    assert len(kernels(compiled)) == 1
    assert "all-" not in compiled.as_text()


def test_outside_shard_map_jax_says_that_a_kernel_is_not_cut():
    whole = NamedSharding(four(CHIPS[0]), P())
    x = jax.ShapeDtypeStruct((768, 768), jnp.float32, sharding=whole)
    with pytest.raises(NotImplementedError, match="shard_map"):
        compile(pallas_products().gram, x)


def test_what_is_added_to_a_product_is_fused_by_xla():
    """So a X + B X, the long product, has no kernel: XLA's takes the sum with it."""
    x = on(CHIPS[0], 768, 3072, dtype=jnp.bfloat16)
    b = on(CHIPS[0], 768, 768, dtype=jnp.bfloat16)
    dot = functools.partial(jnp.matmul, preferred_element_type=np.float32)
    step = lambda b, x: (1.5 * x.astype(jnp.float32) + dot(b, x)).astype(x.dtype)
    text = compile(step, b, x).as_text()
    entry = text[text.index("ENTRY") :]
    assert len(re.findall(r"= \S+ fusion\(", entry)) == 1
    assert len(re.findall(r"\bconvolution\(", text)) == 1
    assert "custom-call" not in entry
