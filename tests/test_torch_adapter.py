"""PyTorch modules as denoisers: values, both modes of derivatives, batches, parameterisations, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from critjax.closed_form import gaussian_denoiser, gaussian_symbol
from critjax.eigenmodes import leading_modes
from critjax.fourier import wavevectors
from critjax.networks import torch_denoiser
from critjax.noise import ddpm_timestep_to_sigma, geometric_sigmas
from critjax.sampling import sample
from critjax.spectra import measured_symbol
from critjax.studies.measure import measure

torch = pytest.importorskip("torch")

SHAPE = (4, 5, 3)


def field(seed=0, shape=SHAPE, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


class Linear(torch.nn.Module):
    """x -> M x/(1 + sigma^2) on flattened (C, H, W)."""

    def __init__(self, dtype):
        super().__init__()
        matrix = np.random.default_rng(1).normal(size=(60, 60)) / 8
        self.matrix = torch.nn.Parameter(torch.tensor(matrix, dtype=dtype))
        self.batches = []

    def forward(self, x, sigma):
        self.batches.append(len(x))
        assert x.shape[1:] == (3, 4, 5) and sigma.shape == (len(x),)
        out = (x.reshape(len(x), -1) @ self.matrix.T) / (1 + sigma[:, None] ** 2)
        return out.reshape(x.shape)

    def jacobian(self, sigma):
        """The same in (H, W, C) order."""
        matrix = self.matrix.detach().numpy().reshape(3, 4, 5, 3, 4, 5).transpose(1, 2, 0, 4, 5, 3)
        return matrix / (1 + sigma**2)


class Convolutions(torch.nn.Module):
    """Small, nonlinear, with attention for which torch would choose a fused kernel without such derivatives."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)
        self.norm = torch.nn.GroupNorm(2, 8)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3

    def forward(self, x, t):
        h = torch.nn.functional.silu(self.norm(self.first(x))) * torch.log(1 + t).reshape(-1, 1, 1, 1)
        tokens = h.flatten(2).transpose(1, 2)[:, None].contiguous()  # one head
        mixed = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        h = h + mixed[:, 0].transpose(1, 2).reshape(h.shape)
        return self.last(h)


# Derivatives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "forward", "double-backward"])
@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, 1e-6), (jnp.float64, 1e-12)])
def test_a_linear_module_has_its_matrix_as_jacobian(dtype, atol, mode):
    module = Linear(torch.float32 if dtype == jnp.float32 else torch.float64).eval()
    denoise, x, exact = torch_denoiser(module, mode=mode), field(dtype=dtype), module.jacobian(0.5)
    found = denoise(x, 0.5)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, np.tensordot(exact, x, 3), atol=3 * atol)
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jax.jit(jacobian(lambda y: denoise(y, 0.5)))(x), exact, atol=atol)
    slope = jax.jvp(lambda s: denoise(x, s), (0.5,), (1.0,))[1]
    np.testing.assert_allclose(slope, -2 * 0.5 / 1.25 * np.tensordot(exact, x, 3), atol=3 * atol)


def own_jacobian(module, x, sigma):
    """Torch's own, in (H, W, C) order, and the derivative in sigma."""
    planes = torch.tensor(np.asarray(x)).permute(2, 0, 1)[None]
    level = torch.tensor([sigma], dtype=torch.float64)
    inner, slope = torch.autograd.functional.jacobian(module, (planes, level))
    inner = inner.detach().numpy()[0][:, :, :, 0].transpose(1, 2, 0, 4, 5, 3)
    return inner, slope.detach().numpy()[0, ..., 0].transpose(1, 2, 0)


@pytest.mark.parametrize("mode", ["auto", "forward", "double-backward"])
def test_a_nonlinear_module_against_torch_and_central_differences(mode):
    module, sigma = Convolutions().eval(), 0.7
    denoise = torch_denoiser(module, mode=mode)
    x, v, u = field(2), field(3), field(4)
    inner, slope = own_jacobian(module, x, sigma)
    value, tangent = jax.jit(lambda: jax.jvp(denoise, (x, sigma), (v, 0.3)))()
    np.testing.assert_allclose(value, denoise(x, sigma), atol=1e-14)
    np.testing.assert_allclose(tangent, np.tensordot(inner, v, 3) + 0.3 * slope, atol=1e-12)
    along = jax.jvp(lambda y: denoise(y, sigma), (x,), (v,))[1]
    np.testing.assert_allclose(along, np.tensordot(inner, v, 3), atol=1e-12)
    pulled, pulled_sigma = jax.vjp(denoise, x, jnp.asarray(sigma))[1](u)
    np.testing.assert_allclose(pulled, np.tensordot(u, inner, 3), atol=1e-12)
    np.testing.assert_allclose(pulled_sigma, np.vdot(u, slope), atol=1e-12)
    step = 1e-5
    ahead, behind = (denoise(x + s * v, sigma + 0.3 * s) for s in (step, -step))
    np.testing.assert_allclose(tangent, (ahead - behind) / (2 * step), atol=1e-8)


def test_unsupported_forward_mode_falls_back():
    """A function with a backward rule only."""

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, u):
            return 3 * ctx.saved_tensors[0] ** 2 * u

    class Module(torch.nn.Module):
        def forward(self, x, t):
            return Cube.apply(x)

    x, v = field(), field(1)
    for mode in ("auto", "double-backward"):
        denoise = torch_denoiser(Module().eval(), mode=mode)
        for _ in range(2):
            tangent = jax.jvp(lambda y: denoise(y, 1.0), (x,), (v,))[1]  # noqa: B023
            np.testing.assert_allclose(tangent, 3 * x**2 * v, atol=1e-12)
    with pytest.raises(jax.errors.JaxRuntimeError, match="jvp"):
        jax.jvp(lambda y: torch_denoiser(Module().eval(), mode="forward")(y, 1.0), (x,), (v,))


def test_second_derivatives_raise_and_are_never_zero():
    denoise, x = torch_denoiser(Convolutions().eval()), field()
    slope = lambda y: jax.jvp(lambda z: denoise(z, 1.0), (y,), (x,))[1]  # noqa: E731
    with pytest.raises(ValueError, match="expected first derivatives, got a derivative of a derivative"):
        jax.jvp(slope, (x,), (x,))
    with pytest.raises(ValueError, match="expected first derivatives"):
        jax.hessian(lambda y: jnp.sum(denoise(y, 1.0)))(x)
    with pytest.raises(ValueError, match="expected first derivatives"):
        jax.grad(lambda s: jnp.sum(jax.jvp(lambda z: denoise(z, s), (x,), (x,))[1]))(1.0)


# The derivative in sigma ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["forward", "double-backward"])
@pytest.mark.parametrize("how", ["round", "long", "detach"])
def test_a_rounded_time_raises_and_a_module_without_time_does_not(how, mode):
    class Rounding(torch.nn.Module):
        def forward(self, x, t):
            t = {"round": t.round, "long": t.long, "detach": t.detach}[how]()
            return x * (1 + 0.001 * t).reshape(-1, 1, 1, 1)

    class Timeless(torch.nn.Module):
        def forward(self, x, t):
            return 0.1 * x

    x = field()
    rounding = torch_denoiser(Rounding().eval(), parameterisation="vp-epsilon", mode=mode)
    tangent = jax.jvp(lambda y: rounding(y, 1.0), (x,), (x,))[1]
    np.testing.assert_allclose(tangent, rounding(x, 1.0), atol=1e-12)  # linear in x: sigma is fixed
    with pytest.raises(
        jax.errors.JaxRuntimeError, match="module: expected a time that can be differentiated"
    ):
        jax.jvp(lambda s: rounding(x, s), (1.0,), (1.0,))
    with pytest.raises(
        jax.errors.JaxRuntimeError, match="module: expected a time that can be differentiated"
    ):
        jax.grad(lambda s: jnp.sum(rounding(x, s)))(1.0)
    timeless = torch_denoiser(Timeless().eval(), parameterisation="vp-epsilon", mode=mode)

    def exact(s):  # D = x - sigma 0.1 x/sqrt(1 + sigma^2)
        return x * (1 - 0.1 * s / jnp.sqrt(1 + s**2))

    np.testing.assert_allclose(timeless(x, 1.0), exact(1.0), atol=1e-12)
    found = jax.jvp(lambda s: timeless(x, s), (1.0,), (1.0,))[1]
    np.testing.assert_allclose(found, jax.jvp(exact, (1.0,), (1.0,))[1], atol=1e-12)


# Batches -------------------------------------------------------------------------------------------------------


def test_a_vmapped_batch_is_one_call_and_equals_the_loop():
    module = Linear(torch.float64).eval()
    denoise = torch_denoiser(module)
    batch, sigmas = field(5, (6, *SHAPE)), jnp.linspace(0.2, 2.0, 6)
    loop = np.stack([denoise(x, s) for x, s in zip(batch, sigmas, strict=True)])
    cases = {
        (6,): lambda: jax.vmap(denoise)(batch, sigmas),
        (24,): lambda: jax.vmap(lambda s: jax.vmap(denoise, (0, None))(batch, s))(sigmas[:4]),
        (6, 6): lambda: jax.vmap(lambda x, s: jax.jvp(lambda y: denoise(y, s), (x,), (x,)))(batch, sigmas),
        (6, 7): lambda: jax.vmap(lambda u: jax.vjp(lambda y: denoise(y, 0.2), batch[0])[1](u))(
            field(6, (7, *SHAPE))
        ),
    }
    results = {}
    for expected, run in cases.items():
        module.batches.clear()
        results[expected] = jax.jit(run)()
        jax.block_until_ready(results[expected])
        assert tuple(sorted(module.batches)) in (expected, expected[1:])  # unused values are not computed
    np.testing.assert_allclose(results[(6,)], loop, atol=1e-14)
    for row, s in zip(results[(24,)], sigmas, strict=False):
        np.testing.assert_allclose(row, np.stack([denoise(x, s) for x in batch]), atol=1e-14)
    np.testing.assert_allclose(results[(6, 6)][1], loop, atol=1e-14)
    exact = np.tensordot(field(6, (7, *SHAPE)), module.jacobian(0.2), 3)
    np.testing.assert_allclose(results[(6, 7)][0], exact, atol=1e-13)


def test_labels_and_outputs_of_other_kinds():
    class Output:
        def __init__(self, sample):
            self.sample = sample

    class Labelled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

        def forward(self, x, t, label, kind):
            assert label.shape == (len(x),)
            out = x * self.scale[label].reshape(-1, 1, 1, 1)
            return {"sample": Output, "tuple": lambda y: (y, None), "tensor": lambda y: y}[kind](out)

    batch = field(7, (2, *SHAPE))
    for label in (torch.tensor(2), torch.tensor([2])):
        for kind in ("sample", "tuple", "tensor"):
            denoise = torch_denoiser(Labelled().eval(), arguments={"label": label, "kind": kind})
            np.testing.assert_allclose(jax.vmap(denoise, (0, None))(batch, 1.0), 3 * batch, atol=1e-14)
    denoise = torch_denoiser(
        Labelled().eval(),
        call=lambda module, x, t: (
            module(x, t, torch.zeros(len(x), dtype=torch.long), "sample").sample + t.sum()
        ),
        time_fn=lambda sigma: sigma**2,
    )
    np.testing.assert_allclose(denoise(batch[0], 3.0), batch[0] + 9, atol=1e-12)


# Parameterisations ---------------------------------------------------------------------------------------------

GRID = (6, 5)
SPECTRUM = 2 / (0.3 + np.sum(np.asarray(wavevectors(GRID)) ** 2, -1))
MEAN = np.random.default_rng(8).normal(size=(*GRID, 3))


class Wiener(torch.nn.Module):
    """One Gaussian denoiser in all three parameterisations, its schedule written out again."""

    def __init__(self, kind, dtype=torch.float64):
        super().__init__()
        self.kind = kind
        self.mean = torch.nn.Parameter(torch.tensor(MEAN, dtype=dtype).permute(2, 0, 1))
        self.spectrum = torch.nn.Parameter(torch.tensor(SPECTRUM, dtype=dtype))
        alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        self.knots = 0.5 * torch.log(1 / alpha_bar - 1)

    def denoise(self, x, sigma):
        gain = self.spectrum / (self.spectrum + sigma**2)
        return self.mean + torch.fft.ifft2(gain * torch.fft.fft2(x - self.mean)).real

    def forward(self, x, t):
        t = t.reshape(-1, 1, 1, 1)
        if self.kind == "edm":
            return self.denoise(x, t)
        low = t.floor().long().clamp(0, 998)
        log_sigma = self.knots[low] + (t - low) * (self.knots[low + 1] - self.knots[low])
        sigma = torch.exp(log_sigma).to(x.dtype)
        noisy = x * torch.sqrt(1 + sigma**2)
        clean = self.denoise(noisy, sigma)
        noise = (noisy - clean) / sigma
        if self.kind == "vp-epsilon":
            return noise
        return (noise - sigma * clean) / torch.sqrt(1 + sigma**2)


@pytest.mark.parametrize("kind", ["edm", "vp-epsilon", "v"])
def test_three_parameterisations_of_one_denoiser(kind):
    exact = gaussian_denoiser(MEAN, SPECTRUM)
    denoise = torch_denoiser(Wiener(kind).eval(), parameterisation=kind)
    x, v = field(9, (*GRID, 3)), field(10, (*GRID, 3))
    for sigma in (0.05, float(ddpm_timestep_to_sigma(300.25)), 20.0):
        np.testing.assert_allclose(denoise(x, sigma), exact(x, sigma), atol=1e-9)
        for run in (
            lambda f, s=sigma: jax.jvp(f, (x, s), (v, 0.5))[1],
            lambda f, s=sigma: jax.grad(lambda y, s: jnp.sum(v * f(y, s)), (0, 1))(x, s),
        ):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), run(denoise), run(exact))
    single = torch_denoiser(Wiener(kind, torch.float32).eval(), parameterisation=kind)
    found = single(x.astype(jnp.float32), 0.7)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact(x, 0.7), atol=1e-5)
    with jax.enable_x64(False):  # the default of JAX
        plain = jax.jit(single)(jnp.asarray(np.asarray(x), jnp.float32), 0.7)
    np.testing.assert_allclose(plain, found, atol=1e-6)


def test_another_schedule_and_continuous_time():
    class Scaled(torch.nn.Module):
        def forward(self, x, t):
            return x * t.reshape(-1, 1, 1, 1)

    x = field()
    denoise = torch_denoiser(
        Scaled().eval(), parameterisation="vp-epsilon", schedule="cosine", num_timesteps=100
    )
    sigma = float(ddpm_timestep_to_sigma(37.5, schedule="cosine", num_timesteps=100))
    np.testing.assert_allclose(denoise(x, sigma), x * (1 - sigma * 37.5 / np.sqrt(1 + sigma**2)), atol=1e-9)
    denoise = torch_denoiser(Scaled().eval(), parameterisation="v", time_fn=lambda s: s / (1 + s))
    # t = 3/4; x0 = (1/10) x - 3/sqrt(10) v with v = t x/sqrt(10)
    np.testing.assert_allclose(denoise(x, 3.0), x * (0.1 - 0.3 * 0.75), atol=1e-12)


# With the rest of the library ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["edm", "v"])
def test_symbols_and_modes_of_a_module(kind):
    denoise = torch_denoiser(Wiener(kind).eval(), parameterisation=kind)
    x, sigma = field(11, (*GRID, 3)), 0.8
    exact = np.asarray(gaussian_symbol(SPECTRUM)(sigma))[..., 0, 0]
    run = jax.jit(lambda x, key: measured_symbol(denoise, key, x, sigma, num_probes=2))
    found = run(x, jax.random.key(0)).value
    np.testing.assert_allclose(found, exact[..., None, None] * np.eye(3), atol=1e-10)
    modes = leading_modes(denoise, x, sigma, num_modes=4, symmetric=True)
    np.testing.assert_allclose(modes.eigenvalue, np.sort(np.repeat(exact.real, 3))[::-1][:4], atol=1e-8)


def test_sampling_and_its_gradient():
    denoise, exact = torch_denoiser(Wiener("edm").eval()), gaussian_denoiser(MEAN, SPECTRUM)
    sigmas, key = geometric_sigmas(3.0, 0.1, 3).astype(jnp.float64), jax.random.key(1)

    def end(denoise, scale):
        x = scale * field(12, (*GRID, 3))
        return sample(denoise, key, (*GRID, 3), sigmas, eta=0.5, x_init=x).x[-1]

    np.testing.assert_allclose(jax.jit(lambda: end(denoise, 1.0))(), end(exact, 1.0), atol=1e-10)
    slopes = [jax.grad(lambda s, d=d: jnp.sum(end(d, s) ** 2))(1.0) for d in (denoise, exact)]
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-9)


def test_a_module_is_measured_like_the_native_denoiser():
    """Callbacks under jit, scan, map, vmap and linearize."""
    images = field(13, (4, *GRID, 3))
    settings = {
        "sigmas": np.array([4.0, 2.0, 1.0]),
        "num_samples": 24,
        "probe_samples": 3,
        "closure_samples": 16,
    }
    module = torch_denoiser(Wiener("v").eval(), parameterisation="v")
    adapter, native = (measure(f, images, **settings) for f in (module, gaussian_denoiser(MEAN, SPECTRUM)))
    assert set(adapter) == set(native)
    for name in native:
        np.testing.assert_allclose(adapter[name], native[name], rtol=1e-6, atol=1e-8, err_msg=str(name))


def test_a_u_net_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    module = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=4,
    )
    module = module.double().eval()
    arguments = {"class_labels": torch.tensor(2)}
    denoise = torch_denoiser(module, parameterisation="vp-epsilon", arguments=arguments)
    x, v, u = (field(n, (8, 12, 3)) for n in range(3))
    with torch.no_grad():
        planes = torch.tensor(np.asarray(x) / np.sqrt(2)).permute(2, 0, 1)[None]
        t = np.interp(0.0, Wiener("v").knots.numpy(), np.arange(1000))
        noise = (
            module(planes, torch.tensor([t]), class_labels=torch.tensor([2]))
            .sample[0]
            .permute(1, 2, 0)
            .numpy()
        )
    np.testing.assert_allclose(denoise(x, 1.0), x - noise, atol=1e-9)
    tangent = jax.jvp(lambda y: denoise(y, 1.0), (x,), (v,))[1]
    step = 1e-4
    difference = (denoise(x + step * v, 1.0) - denoise(x - step * v, 1.0)) / (2 * step)
    np.testing.assert_allclose(tangent, difference, atol=1e-6)
    pulled = jax.vjp(lambda y: denoise(y, 1.0), x)[1](u)[0]
    np.testing.assert_allclose(np.vdot(pulled, v), np.vdot(u, tangent), rtol=1e-9)
    both = jax.jit(jax.vmap(denoise, (0, None)))(jnp.stack([x, v]), 1.0)
    np.testing.assert_allclose(both[1], denoise(v, 1.0), atol=1e-10)


# Errors --------------------------------------------------------------------------------------------------------


class Identity(torch.nn.Module):
    def forward(self, x, t):
        return x


def test_messages_before_anything_runs():
    with pytest.raises(TypeError, match="module: expected a torch.nn.Module, got function; wrap functions"):
        torch_denoiser(lambda x, t: x)
    with pytest.raises(
        ValueError, match="parameterisation: expected 'edm' or 'vp-epsilon' or 'v', got 'eps'"
    ):
        torch_denoiser(Identity().eval(), parameterisation="eps")
    with pytest.raises(
        ValueError, match="mode: expected 'auto' or 'forward' or 'double-backward', got 'reverse'"
    ):
        torch_denoiser(Identity().eval(), mode="reverse")
    with pytest.raises(ValueError, match="schedule: expected 'linear' or 'cosine', got 'karras'"):
        torch_denoiser(Identity().eval(), parameterisation="v", schedule="karras")
    with pytest.raises(ValueError, match="schedule: expected none beside time_fn, got 'linear'; leave one"):
        torch_denoiser(Identity().eval(), parameterisation="v", schedule="linear", time_fn=jnp.log)
    with pytest.raises(ValueError, match="num_timesteps: expected none beside parameterisation 'edm', got 9"):
        torch_denoiser(Identity().eval(), num_timesteps=9)
    with pytest.raises(
        ValueError, match=r"module: expected evaluation mode, got training mode in Identity; call mod"
    ):
        torch_denoiser(Identity())
    nested = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Dropout()).eval()
    nested[1].train()
    with pytest.raises(ValueError, match="got training mode in 1; call module.eval"):
        torch_denoiser(nested)
    denoise = torch_denoiser(Identity().eval(), parameterisation="v")
    with pytest.raises(
        ValueError, match=r"sigma: expected a noise level of the schedule, 0.01 \.\.\. 157.4, got 500"
    ):
        denoise(field(), 500.0)
    with pytest.raises(ValueError, match="sigma: expected a finite number > 0, got 0"):
        denoise(field(), 0.0)
    with pytest.raises(ValueError, match=r"x: expected shape \(H, W, C\), got shape \(2, 4, 5, 3\)"):
        denoise(field(0, (2, *SHAPE)), 1.0)
    with pytest.raises(TypeError, match="x: expected a floating-point array, got dtype int"):
        denoise(field().astype(int), 1.0)
    with pytest.raises(ValueError, match=r"time_fn: expected a scalar, got shape \(1,\)"):
        torch_denoiser(Identity().eval(), time_fn=lambda s: s[None])(field(), 1.0)


def test_messages_while_running():
    x = field()
    runtime = jax.errors.JaxRuntimeError
    denoise = torch_denoiser(Identity().eval(), parameterisation="v")
    with pytest.raises(
        runtime, match="sigma: expected noise levels with a time, got one whose time is not finite"
    ):
        jax.jit(denoise)(x, 500.0)
    module = Identity().eval()
    denoise = torch_denoiser(module)
    module.train()
    with pytest.raises(runtime, match="module: expected evaluation mode, got training mode in Identity"):
        denoise(x, 1.0)
    module.eval()
    np.testing.assert_array_equal(denoise(x, 1.0), x)

    def with_output(function):
        return torch_denoiser(Identity().eval(), call=lambda module, x, t: function(x))

    with pytest.raises(
        runtime, match=r"module: expected an output of shape \(1, 3, 4, 5\), got shape \(1, 6, 4, 5\)"
    ):
        with_output(lambda x: torch.cat([x, x], 1))(x, 1.0)
    with pytest.raises(runtime, match="module: expected a tensor, or an output with one as .sample, got str"):
        with_output(lambda x: "image")(x, 1.0)
    cut = with_output(lambda x: x.detach().clone())
    for mode in (
        lambda: jax.jvp(lambda y: cut(y, 1.0), (x,), (x,)),
        lambda: jax.grad(lambda y: jnp.sum(cut(y, 1.0)))(x),
    ):
        with pytest.raises(
            runtime, match="module: expected an output that depends differentiably on the image"
        ):
            mode()
