// The page where the reader moves t: x_t = √ᾱ · x_0 + √(1−ᾱ) · z, with numbers that the library wrote.
(() => {
  "use strict";
  const WORDS = {
    en: {
      image: (t) => `The photograph at t = ${t}`,
      histogram: "Histogram of the values of x_t, with the density of N(0, 1) as a line",
      curves: "√ᾱ falling and √(1−ᾱ) rising with t; a vertical line marks t",
      numbers: (t, a, s, mean, std) =>
        `t = ${t}:  √ᾱ = ${a},  √(1−ᾱ) = ${s},  log-SNR = ${snr(a, s)};  ` +
        `mean of x_t ${mean}, standard deviation ${std}`,
    },
    zh: {
      image: (t) => `t = ${t} 时的照片`,
      histogram: "x_t 取值的直方图，折线是 N(0, 1) 的密度",
      curves: "√ᾱ 随 t 下降，√(1−ᾱ) 随 t 上升；竖线标出 t",
      numbers: (t, a, s, mean, std) =>
        `t = ${t}：√ᾱ = ${a}，√(1−ᾱ) = ${s}，log-SNR = ${snr(a, s)}；` + `x_t 的均值 ${mean}，标准差 ${std}`,
    },
  };
  const snr = (a, s) => (a > 0 ? (2 * Math.log(a / s)).toFixed(2) : "−∞");
  const BLUE = "#1f6fd0", ORANGE = "#c2570c", GREY = "#777";

  function start() {
    const root = document.querySelector(".mover");
    if (!root || !window.ALPHABAR) return;
    const words = document.documentElement.lang.startsWith("zh") ? WORDS.zh : WORDS.en;
    const { size, x_0, z, schedules } = window.ALPHABAR;
    const part = (name) => root.querySelector(`[data-part="${name}"]`);
    const slider = part("t"), choice = part("schedule"), beside = part("beside");
    for (const select of [choice, beside])
      for (const name of Object.keys(schedules)) select.add(new Option(name, name));
    beside.value = "cosine";

    function noised(schedule, t) {
      const a = schedule.signal[t], s = schedule.noise[t];
      return x_0.map((x, i) => a * x + s * z[i]);
    }

    function paint(canvas, values, label) {
      canvas.width = canvas.height = size;
      canvas.setAttribute("aria-label", label);
      const context = canvas.getContext("2d"), picture = context.createImageData(size, size);
      const plane = size * size;
      for (let i = 0; i < plane; i++) {
        for (let c = 0; c < 3; c++) picture.data[4 * i + c] = (values[c * plane + i] + 1) * 127.5;
        picture.data[4 * i + 3] = 255;
      }
      context.putImageData(picture, 0, 0);
    }

    function board(canvas, label) {
      canvas.width = 560;
      canvas.height = 300;
      canvas.setAttribute("aria-label", label);
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, 560, 300);
      context.lineWidth = 3;
      context.font = "22px sans-serif";
      return context;
    }

    function line(context, points, colour) {
      context.strokeStyle = colour;
      context.beginPath();
      points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.stroke();
    }

    function histogram(canvas, values) {
      const context = board(canvas, words.histogram), bins = new Array(56).fill(0), width = 8 / bins.length;
      for (const value of values) {
        const bin = Math.floor((value + 4) / width);
        if (bin >= 0 && bin < bins.length) bins[bin]++;
      }
      const height = (density) => 270 - Math.min(density, 0.9) * 290;
      context.fillStyle = BLUE;
      bins.forEach((count, i) => {
        const top = height(count / values.length / width);
        context.fillRect(i * 10, top, 9, 270 - top);
      });
      const bell = [];
      for (let x = -4; x <= 4; x += 0.1)
        bell.push([(x + 4) * 70, height(Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI))]);
      line(context, bell, ORANGE);
      context.fillStyle = GREY;
      for (const x of [-3, -2, -1, 0, 1, 2, 3]) context.fillText(x, (x + 4) * 70 - 8, 296);
    }

    function curves(canvas, schedule, t) {
      const context = board(canvas, words.curves), last = schedule.signal.length - 1;
      const place = (values) => values.map((value, i) => [(i / last) * 560, 290 - value * 280]);
      line(context, place(schedule.signal), BLUE);
      line(context, place(schedule.noise), ORANGE);
      line(context, [[(t / last) * 560, 0], [(t / last) * 560, 300]], GREY);
      context.fillStyle = BLUE;
      context.fillText("√ᾱ", 30, 60);
      context.fillStyle = ORANGE;
      context.fillText("√(1−ᾱ)", 440, 60);
    }

    function show() {
      const t = Number(slider.value), schedule = schedules[choice.value], values = noised(schedule, t);
      paint(part("image"), values, words.image(t));
      paint(part("other"), noised(schedules[beside.value], t), words.image(t));
      histogram(part("histogram"), values);
      curves(part("curves"), schedule, t);
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      const power = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
      const text = [schedule.signal[t], schedule.noise[t]].map((value) => Number(value.toFixed(4)));
      part("numbers").textContent = words.numbers(t, ...text, mean.toFixed(2), Math.sqrt(power).toFixed(2));
      slider.setAttribute("aria-valuetext", `t = ${t}`);
    }

    for (const control of [slider, choice, beside]) control.addEventListener("input", show);
    show();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
