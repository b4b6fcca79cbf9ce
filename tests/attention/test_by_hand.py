"""Maps of a network so small that every number can be worked out on paper.

The image x is [[1, 2], [3, 4]] times a factor c > 0. A 1x1 convolution makes two channels of it, A0 = x and A1 = 2 x. The
hidden units, by their weights on (A0 | A1) pixel by pixel, are

    g0 = (1 0 0 0 | 0 0 0 1)        1 + 8                  =  9   active
    g1 = (0 0 0 -1 | 1 0 0 0)       -4 + 2                 = -2   not active: ReLU cuts it off
    g2 = (2 2 -2 -2 | 0 0 4 0)      2 + 4 - 6 - 8 + 4 * 6  = 16   active

    mean_0   = 1 h0 + 5 h1 + 0 h2 = 9              logvar_0 = h0 - 9 + 2 ln 2     = 2 ln 2, std_0 = 2
    mean_1   = 2 h0 + 7 h1 - 1 h2 = 18 - 16 = 2    logvar_1 = 3 h1 + h2 / 2 - 8   = 0,      std_1 = 1

Gradients by A, over the active units alone:

    d mean_0   = g0         = (1 0 0 0 | 0 0 0 1)      spatial means  1/4,  1/4
    d mean_1   = 2 g0 - g2  = (0 -2 2 2 | 0 0 -4 2)    spatial means  1/2, -1/2
    d logvar_0 = g0                                    spatial means  1/4,  1/4
    d logvar_1 = g2 / 2     = (1 1 -1 -1 | 0 0 2 0)    spatial means  0,    1/2
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vaelens.attention import Deviation, LatentAttention, MeanSum, NormalDifference

LN2 = math.log(2)
X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


class Paper(nn.Module):
    input_shape = (1, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(8, 3, bias=False)
        self.relu = nn.ReLU()
        self.mean = nn.Linear(3, 2, bias=False)
        self.logvar = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1))
            self.hidden.weight.copy_(
                torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, -1, 1, 0, 0, 0], [2, 2, -2, -2, 0, 0, 4, 0]])
            )
            self.mean.weight.copy_(torch.tensor([[1.0, 5, 0], [2, 7, -1]]))
            self.logvar.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 3, 0.5]]))
            self.logvar.bias.copy_(torch.tensor([-9 + 2 * LN2, -8]))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.relu(self.hidden(self.flatten(self.conv(images))))
        return self.mean(hidden), self.logvar(hidden)


@pytest.fixture(params=["closed_form", "vjp"])
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def stacked(*factors: float) -> Tensor:
    """Maps that are multiples of x, one per latent: (1, K, 2, 2)."""
    return torch.stack([f * X for f in factors])[None]


def check(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def images(*factors: float) -> Tensor:
    return torch.stack([f * X for f in factors])[:, None]


def test_posterior(method: str) -> None:
    maps = LatentAttention(Paper(), method=method)(images(1.0))
    check(maps.mean, torch.tensor([[9.0, 2.0]]))
    check(maps.logvar, torch.tensor([[2 * LN2, 0.0]]))
    assert maps.layer == "conv"
    assert maps.method == method


def test_cvpr(method: str) -> None:
    maps = LatentAttention(Paper(), method=method)(images(1.0))
    check(maps.weights, torch.tensor([[[0.25, 0.25], [0.5, -0.5]]]))
    # S_0 = x / 4 + 2 x / 4 = 3/4 x;  S_1 = x / 2 - 2 x / 2 = -1/2 x, which ReLU makes 0.
    check(maps.signed, stacked(0.75, -0.5))
    check(maps.per_latent, stacked(0.75, 0.0))
    check(maps.overall(), 0.375 * X[None])


def test_another_active_unit(method: str) -> None:
    # Of the image (4 0; 0 -1), A0 = (4 0 0 -1), A1 = (8 0 0 -2): h0 = 4 - 2 = 2 and h1 = 1 + 8 = 9 are active, and
    # h2 = 8 + 2 + 0 = 10 also. d mean_0 = g0 + 5 g1 = (1 0 0 -5 | 5 0 0 1), spatial means -1 and 3/2.
    # d mean_1 = 2 g0 + 7 g1 - g2 = (2-2, -2, 2, -7+2 | 7, 0, -4, 2), spatial means -5/4 and 5/4.
    image = torch.tensor([[[[4.0, 0.0], [0.0, -1.0]]]])
    maps = LatentAttention(Paper(), method=method)(image)
    check(maps.weights, torch.tensor([[[-1.0, 1.5], [-1.25, 1.25]]]))
    # S_0 = (-1 + 2 * 3/2) image = 2 image;  S_1 = (-5/4 + 2 * 5/4) image = 5/4 image.
    check(maps.signed, torch.stack([2 * image[0, 0], 1.25 * image[0, 0]])[None])


def test_arxiv_v1(method: str) -> None:
    maps = LatentAttention(Paper(), method=method, variant="arxiv_v1")(images(1.0))
    # ReLU(d mean_0) is itself. ReLU(d mean_1) = (0 0 2 2 | 0 0 0 2): spatial means 1 and 1/2.
    check(maps.weights, torch.tensor([[[0.25, 0.25], [1.0, 0.5]]]))
    check(maps.per_latent, stacked(0.75, 2.0))


def test_expvae(method: str) -> None:
    maps = LatentAttention(Paper(), method=method, variant="expvae")(images(1.0))
    # Squares of d mean_0: 1 + 1 over 8 numbers, RMS 1/2. Of d mean_1: 4 + 4 + 4 + 16 + 4 = 32 over 8, RMS 2.
    a, b = 0.25 / 0.50001, 0.5 / 2.00001
    check(maps.weights, torch.tensor([[[a, a], [b, -b]]]))
    check(maps.per_latent, stacked(3 * a, b))  # |a x + a 2x| and |b x - b 2x|


def test_hirescam(method: str) -> None:
    maps = LatentAttention(Paper(), method=method, variant="hirescam")(images(1.0))
    # d mean_0 A = (1 0 0 0 | 0 0 0 1)(x | 2x), d mean_1 A = (0 -2 2 2 | 0 0 -4 2)(x | 2x), pixel by pixel; they sum to 9 and 2.
    check(maps.signed, torch.tensor([[[[1.0, 0], [0, 8]], [[0, -4], [-18, 24]]]]))
    check(maps.per_latent, torch.tensor([[[[1.0, 0], [0, 8]], [[0, 0], [0, 24]]]]))
    check(maps.weights, torch.tensor([[[0.25, 0.25], [0.5, -0.5]]]))


def test_sampled_latent(method: str) -> None:
    seed = torch.Generator().manual_seed(3)
    e0, e1 = torch.randn(1, 2, generator=torch.Generator().manual_seed(3))[0].tolist()
    maps = LatentAttention(Paper(), method=method)(images(1.0), sample=True, generator=seed)
    # d z_0 = g0 + e0 (std_0 / 2) g0 = (1 + e0) g0                 ->  S_0 = 3/4 (1 + e0) x
    # d z_1 = 2 g0 - g2 + e1 (1 / 2) g2 / 2: spatial means 1/2 and -1/2 + e1 / 4  ->  S_1 = (-1/2 + e1 / 2) x
    check(maps.weights, torch.tensor([[[0.25 * (1 + e0)] * 2, [0.5, -0.5 + e1 / 4]]]))
    check(maps.signed, stacked(0.75 * (1 + e0), -0.5 + e1 / 2))


def test_posterior_of_the_maps(method: str) -> None:
    posterior = LatentAttention(Paper(), method=method).posterior(images(1.0))
    # From the line above: mean (3/4 x, -1/2 x), slope per unit of e (3/4 x, 1/2 x).
    check(posterior.mean, stacked(0.75, -0.5))
    check(posterior.slope, stacked(0.75, 0.5))
    # P(3/4 x (1 + e) > 0) = P(e > -1) = 0.8413447; P(-1/2 x + e x / 2 > 0) = P(e > 1) = 0.1586553.
    check(posterior.probability(), torch.stack([torch.full((2, 2), 0.8413447), torch.full((2, 2), 0.1586553)])[None])
    # E ReLU(m + s e) = m Phi(m / s) + s phi(m / s), phi(1) = 0.2419707: of 1 + e it is 1.0833155, of e - 1 it is 0.0833155.
    check(posterior.rectified_mean, stacked(0.75 * 1.0833155, 0.5 * 0.0833155))


def test_mean_sum(method: str) -> None:
    # d (mean_0 + mean_1) = 3 g0 - g2: spatial means 3/4 and 3/4 - 1 = -1/4. S = (3/4 - 2/4) x = x / 4.
    score = MeanSum.fit(torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]))
    maps = score.maps(LatentAttention(Paper(), method=method), images(1.0))
    check(maps.per_latent, stacked(0.25))
    # Sums 1, 5, 9: mean 5, standard deviation 4. The image's is 11: |11 - 5| / 4.
    assert score.center == pytest.approx(5.0)
    assert score.scale == pytest.approx(4.0)
    check(score.value(maps.mean), torch.tensor([1.5]))


def test_distribution_of_the_mean_sum(method: str) -> None:
    posterior = MeanSum(0.0, 1.0).posterior(LatentAttention(Paper(), method=method), images(1.0))
    # e_0 moves it by (std_0 / 2) S[logvar_0] = 3/4 x, e_1 by (1 / 2) S[logvar_1] = x / 2: variance (9 + 4) / 16 x^2.
    check(posterior.mean, stacked(0.25))
    check(posterior.slope, stacked(0.75, 0.5))
    check(posterior.std, stacked(math.sqrt(13) / 4))
    # P(x / 4 + sqrt 13 / 4 x e > 0) = P(e > -1 / sqrt 13) = Phi(0.2773501).
    check(posterior.probability(), torch.full((1, 1, 2, 2), 0.6092444))


def test_distribution_of_the_deviation(method: str) -> None:
    attention = LatentAttention(Paper(), method=method)
    posterior = Deviation.fit(attention, images(4.0, 0.5, 2.0), 1).posterior(attention, images(1.0))
    # A - ref = A / 2: half of mean (3/4 x, -1/2 x) and of slope (3/4 x, 1/2 x), so that mean / std is 1 and -1.
    check(posterior.mean, stacked(0.375, -0.25))
    check(posterior.slope, stacked(0.375, 0.25))
    # E |1 + e| = erf(1 / sqrt 2) + 2 phi(1) = 0.6826895 + 0.4839414; its square is 2 in the mean.
    check(posterior.rectified_mean, stacked(0.375 * 1.1666309, 0.25 * 1.1666309))
    spread = math.sqrt(2 - 1.1666309**2)
    check(posterior.rectified_std, stacked(0.375 * spread, 0.25 * spread))
    # |m + s e| > s where m = s: e > 0 or e < -2, 1/2 + 0.0227501; of the pixel x = 1, whose s is 3/8.
    assert posterior.probability(0.375)[0, 0, 0, 0].item() == pytest.approx(0.5227501, abs=1e-6)
    check(posterior.probability(), torch.ones(1, 2, 2, 2))


def test_normal_difference(method: str) -> None:
    # Normal means (0, 0) and (2, 4): mean (1, 2), variance (2, 8); all log variances 0, so var_x = (3, 9).
    score = NormalDifference.fit(torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.zeros(2, 2))
    check(score.mean, torch.tensor([1.0, 2.0]))
    check(score.std, torch.tensor([math.sqrt(3), 3.0]))
    maps = score.maps(LatentAttention(Paper(), method=method), images(1.0))
    # u_i = mean_x - mean_y + sqrt(var_x + var_y) e with var_y = (4, 1):  E S_i = -S[mean_y] and
    # d S_0 / d e = 4 / (2 sqrt 7) 3/4 x,  d S_1 / d e = 1 / (2 sqrt 10) S[logvar_1] = x / (2 sqrt 10)  (0 + 2 x / 2 = x).
    check(maps.mean, stacked(-0.75, 0.5))
    check(maps.slope, stacked(1.5 / math.sqrt(7), 0.5 / math.sqrt(10)))
    # E[u] / std[u] = (1 - 9) / sqrt 7 and (2 - 2) / sqrt 10: root mean square sqrt(64 / 7 / 2).
    check(score.value(maps.maps.mean, maps.maps.logvar), torch.tensor([math.sqrt(32 / 7)]))


@pytest.mark.parametrize(
    ("neighbours", "factors"),
    [
        (1, (0.375, 0.25)),  # nearest x / 2, so A - ref = A / 2: |3/4 x / 2|, |-1/2 x / 2|
        (2, (0.1875, 0.125)),  # x / 2 and 2 x, mean 5/4 A, A - ref = -A / 4
        (3, (0.875, 7 / 12)),  # all three, mean 13/6 A, A - ref = -7/6 A
        (None, (0.875, 7 / 12)),
    ],
)
def test_deviation(method: str, neighbours: int | None, factors: tuple[float, float]) -> None:
    # The mean is proportional to c: codes (9, 2) c. Of the normal images c = 4, 1/2, 2 the distances from c = 1 are as
    # 3, 1/2, 1.
    attention = LatentAttention(Paper(), method=method)
    score = Deviation.fit(attention, images(4.0, 0.5, 2.0), neighbours)
    check(score.codes, torch.tensor([[36.0, 8.0], [4.5, 1.0], [18.0, 4.0]]))
    maps = score.maps(attention, images(1.0))
    check(maps.per_latent, stacked(*factors))


def test_deviation_of_a_normal_image_from_the_others(method: str) -> None:
    # c = 2 without itself: nearest of 4, 1/2 is 1/2 (distance 1.5 against 2), so ref = A(1/2).
    attention = LatentAttention(Paper(), method=method)
    score = Deviation.fit(attention, images(4.0, 0.5, 2.0), 1)
    code = torch.tensor([[18.0, 4.0]])
    check(score.reference(code, leave_out_self=True), torch.stack([0.5 * X, X])[None])
    check(score.reference(code), torch.stack([2 * X, 4 * X])[None])


def test_each_image_has_its_own_numbers(method: str) -> None:
    # Maps of (x, 2 x, 1/2 x) are those of x times c: alpha does not depend on c, A does.
    maps = LatentAttention(Paper(), method=method)(images(1.0, 2.0, 0.5))
    check(maps.signed, torch.cat([stacked(0.75, -0.5), stacked(1.5, -1.0), stacked(0.375, -0.25)]))
