// What B4M's page says, in the language of the page's own setting. English stands where it is said and is the key here.
import { app } from "../../scripts/app.js";

const LANGUAGES = ["zh", "ja"];
/** English: [Chinese, Japanese]. Fixed sentences of the server stand here too; {names} are filled in. */
const WORDS = {
    "Not trained yet: press Run": ["尚未训练：请按“运行”", "まだ学習していません：「実行」を押してください"],
    "In the queue: it begins when what runs has ended": ["排队中：当前任务结束后开始", "順番待ち：実行中のものが終わると始まります"],
    "Its turn comes in this run": ["等待中：本次运行稍后会轮到它", "待機中：この実行の中で順番に始まります"],
    "Preparing the pictures": ["正在准备图片", "画像を準備しています"],
    "Painting auxiliary picture {number} of {of}": ["正在绘制辅助图片 {number}/{of}", "補助画像を描いています {number}/{of}"],
    "Encoding picture {number} of {of}": ["正在编码图片 {number}/{of}", "画像をエンコードしています {number}/{of}"],
    "Step {step} of {total}": ["第 {step}/{total} 步", "ステップ {step}/{total}"],
    "Trained before, painting a sample": ["之前已训练，正在绘制样图", "学習済み：サンプルを描いています"],
    "Trained, {total} steps": ["训练完成，共 {total} 步", "学習完了：{total} ステップ"],
    "Trained before, reused": ["之前已训练，直接使用", "学習済みのものを再利用しました"],
    "Stopped at step {step} of {total}": ["停在第 {step}/{total} 步", "ステップ {step}/{total} で停止"],
    "Failed at step {step} of {total}": ["在第 {step}/{total} 步出错", "ステップ {step}/{total} でエラー"],
    "Stopped before the first step": ["在第一步之前停止", "最初のステップの前に停止"],
    "Failed before the first step": ["在第一步之前出错", "最初のステップの前にエラー"],
    "{part}, {number} of {of}": ["{part}（{number}/{of}）", "{part}（{number}/{of}）"],
    "{phase}: {state}": ["{phase}：{state}", "{phase}：{state}"],
    "Auxiliary pictures": ["辅助图片", "補助画像"],
    "Content": ["内容", "コンテンツ"],
    "Style": ["风格", "画風"],
    "Both": ["两者", "両方"],
    "{count} s": ["{count} 秒", "{count} 秒"],
    "{count} min": ["{count} 分钟", "{count} 分"],
    "{count} h": ["{count} 小时", "{count} 時間"],
    "{time} left": ["还剩 {time}", "残り {time}"],
    "All trainings: about {time} left": ["全部训练：约剩 {time}", "すべての学習：残り約 {time}"],
    "About {time} and {gib} GB on {machine}": ["约需 {time}、{gib} GB（{machine}）", "約 {time}、{gib} GB（{machine}）"],
    "{estimate} (as the last trainings here)": ["{estimate}，按本机以往的训练估计", "{estimate}、この環境での前回までの学習による見積もり"],
    "{estimate} (by arithmetic until something was trained here)": ["{estimate}，在本机训练过之前按计算估计", "{estimate}、この環境で学習するまでは計算による見積もり"],
    "this processor": ["本机处理器", "このプロセッサー"],
    "Done.": ["完成。", "完了しました。"],
    "This was trained before, so the result was reused.": ["之前已训练过，因此直接使用结果。", "以前に学習済みのため、その結果を再利用しました。"],
    "Stopped. What was trained is kept: Run goes on from here.": ["已停止。训练过的部分已保留：再次运行会从这里继续。", "停止しました。学習した分は残っています：もう一度実行すると、ここから続けます。"],
    "Stopped. It had not come to its first step.": ["已停止，还没有到第一步。", "停止しました。最初のステップの前でした。"],
    "ComfyUI was ended. Run goes on from what was kept.": ["ComfyUI 已关闭。再次运行会从保留的地方继续。", "ComfyUI が終了しました。もう一度実行すると、残っている所から続けます。"],
    "The loss curve and sample pictures appear here while it trains.": ["训练时，这里会显示损失曲线和样图。", "学習中、ここに損失曲線とサンプル画像が表示されます。"],
    "loss": ["损失", "損失"],
    "step 0": ["第 0 步", "ステップ 0"],
    "sample at step {step}": ["第 {step} 步的样图", "ステップ {step} のサンプル"],
    "{sample}. Click twice to open it large.": ["{sample}。双击可放大。", "{sample}。ダブルクリックで拡大します。"],
    "Use step {step}": ["使用第 {step} 步", "ステップ {step} を使う"],
    "Set steps to it: Run takes what is kept of that step and trains nothing": ["把步数设为这一步：运行时取用保留的结果，不再训练", "ステップ数をここに合わせます。実行すると、残っている結果を使い、学習はしません"],
    "steps is {step} now: Run takes that step as it was kept.": ["步数现在是 {step}：运行时会取用保留的这一步。", "ステップ数は {step} になりました。実行すると、残っているこのステップを使います。"],
    "Earlier": ["上一张", "前へ"],
    "Later": ["下一张", "次へ"],
    "Close": ["关闭", "閉じる"],
    "ComfyUI does not answer.": ["ComfyUI 没有响应。", "ComfyUI が応答しません。"],
    "Add pictures": ["添加图片", "画像を追加"],
    "Choose pictures from this computer; several at once, with their .txt captions and _mask pictures": ["从这台电脑选择图片；可一次选多张，连同 .txt 说明和 _mask 遮罩图", "このコンピューターから画像を選びます。.txt のキャプションや _mask 画像も一緒に、まとめて選べます"],
    "New set": ["新建一组", "新しいセット"],
    "Choose pictures for a new folder of their own; this one stays as it is": ["为新的文件夹选择图片；现有的文件夹不变", "新しいフォルダーに入れる画像を選びます。今のフォルダーはそのままです"],
    "The pictures come by wire.": ["图片来自连线。", "画像は接続から届きます。"],
    "Drop three to ten pictures here, or press Add pictures.": ["把三到十张图片拖到这里，或按“添加图片”。", "3〜10 枚の画像をここにドロップするか、「画像を追加」を押してください。"],
    "1 picture": ["1 张图片", "画像 1 枚"],
    "{count} pictures": ["{count} 张图片", "画像 {count} 枚"],
    "These come from the graph.": ["这些图片来自工作流。", "これらはワークフローから届きます。"],
    "These come with B4M.": ["这些图片随 B4M 附带。", "これらは B4M に付属しています。"],
    "Taken out: {count}. ": ["已移出：{count}。", "取り出した画像：{count} 枚。"],
    "Put back": ["放回", "戻す"],
    "mask": ["遮罩", "マスク"],
    "{name}: by the caption pattern. Write here what this picture shows.": ["{name}：按说明模板。可在此写下这张图片画的是什么。", "{name}：キャプションの書式どおりです。ここに、この画像に写っているものを書けます。"],
    "Take out: it moves to the subfolder b4m_removed": ["移出：移到子文件夹 b4m_removed", "取り出す：サブフォルダー b4m_removed に移します"],
    "{name} was left out: B4M does not read {ending} files.": ["{name} 未加入：B4M 不能读取 {ending} 文件。", "{name} は追加されませんでした：B4M は {ending} ファイルを読めません。"],
    "class_word still says {word}: write what your subject is, in a word the model knows.": ["类别词仍是 {word}：请用模型认识的英文词写出你的主体是什么。", "クラスワードがまだ {word} のままです。被写体が何かを、モデルの知っている英単語で書いてください。"],
    "No picture was brought.": ["没有加入图片。", "画像は追加されませんでした。"],
    "Bringing picture {number} of {of}": ["正在加入图片 {number}/{of}", "画像を追加しています {number}/{of}"],
    "{name} was not brought: ComfyUI refused it.": ["{name} 未加入：ComfyUI 拒绝了它。", "{name} は追加されませんでした：ComfyUI に拒否されました。"],
    "1 picture brought to input/{folder}.": ["已把 1 张图片放入 input/{folder}。", "画像 1 枚を input/{folder} に追加しました。"],
    "{count} pictures brought to input/{folder}.": ["已把 {count} 张图片放入 input/{folder}。", "画像 {count} 枚を input/{folder} に追加しました。"],
    "{name} was left out: {reason}": ["{name} 未加入：{reason}", "{name} は追加されませんでした：{reason}"],
    "no picture has its name.": ["没有同名的图片。", "同じ名前の画像がありません。"],
    "After Run: the name of the file.": ["运行后：文件的名字。", "実行後：ファイル名。"],
    "After Run: whether the two fit.": ["运行后：两者是否相配。", "実行後：2 つが合うかどうか。"],
    "After Run: trigger words, a prompt to copy, and all that the file says.": ["运行后：触发词、可复制的提示词，以及文件中的全部信息。", "実行後：トリガーワード、コピーできるプロンプト、ファイルの情報すべて。"],
    "After Run: what was painted.": ["运行后：画了什么。", "実行後：描いたもの。"],
    "After Run: what was noticed.": ["运行后：值得注意的地方。", "実行後：気づいたこと。"],
    "Nothing to say.": ["没有要说明的。", "特に知らせることはありません。"],
    "Trigger words": ["触发词", "トリガーワード"],
    "Prompt": ["提示词", "プロンプト"],
    "Copy": ["复制", "コピー"],
    "Copied": ["已复制", "コピーしました"],
    "Copy: {text}": ["复制：{text}", "コピー：{text}"]
};

/** An English text in the page's language, with its {names} filled in; one that is not known stays as it is. */
export function words(text, values = {}) {
    const locale = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en"; // "zh-TW" reads what "zh" does, as the page's own names of nodes
    const said = WORDS[text]?.[LANGUAGES.indexOf(locale.split("-")[0])] ?? text;
    return said.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

/** "45 s", "12 min", "1.5 h". */
export function duration(seconds) {
    if (seconds < 90) return words("{count} s", { count: Math.max(Math.round(seconds), 1) });
    if (seconds < 5400) return words("{count} min", { count: Math.round(seconds / 60) });
    return words("{count} h", { count: (seconds / 3600).toFixed(1) });
}
