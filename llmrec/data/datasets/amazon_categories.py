"""The categories of the Amazon reviews of 2014, 2018 and 2023 as their homes list them.

For each: the number of ratings, the number in the home's 5-core file (``None``: it has none) and the SHA-256
of the file of all ratings.

The counts are those of the homes' pages and, where a page rounds, those that RecBole's RecSysDatasets counted;
the 5-core counts of 2023 and all counts of "Unknown" are rounded as published. The homes publish no checksums.
The SHA-256 sums are those that OmniRec states (ISG-Siegen/OmniRec, ``data_loaders/amazon20*.py``, December 2025); a
second public source states the same for All_Beauty and Baby_Products of 2023.
"""

from __future__ import annotations

__all__ = ["AMAZON_2014", "AMAZON_2018", "AMAZON_2023"]

# fmt: off
AMAZON_2014: dict[str, tuple[int, int | None, str]] = {
    "Books": (22_507_155, 8_898_041, "87d923ddac2aacf40c1d0e0e056dbf4bf69c9c7d41852c6b434e781e759c0707"),
    "Electronics": (7_824_482, 1_689_188, "a8e5b66b7f5371d1659ff88ae4acec91604125d6850f4f7e1c418120f2f9c16c"),
    "Movies_and_TV": (4_607_047, 1_697_533, "05fd3bbb387bca99f16b7a64a26abb736429da416e3cc0cc7423483e9ec4c265"),
    "CDs_and_Vinyl": (3_749_004, 1_097_592, "74b503152bc8f92f389a1f841ec00361f903772e5ebb2b664ce678c023dbbceb"),
    "Clothing_Shoes_and_Jewelry": (5_748_920, 278_677, "7bf571cb99abaebf380d2a231986e6df7b622ebd49b308e2506f1c0aab54b29a"),
    "Home_and_Kitchen": (4_253_926, 551_682, "b0dae06e0b147abbf31878b4d16075a77b6ca8b8a5005b1a0b153b9d3ed310b2"),
    "Kindle_Store": (3_205_467, 982_619, "616edbb9ee9b5e1f0212e0a75e226df3abb66548d833df3ea8a3c53942541200"),
    "Sports_and_Outdoors": (3_268_695, 296_337, "a31a27e2f0cd85b50acd002378cf1a23a0b3f2659484defb3225a836118252d4"),
    "Cell_Phones_and_Accessories": (3_447_249, 194_439, "3c944712ec98360c959df256c9e3dde0d40caa4a888b6d2013050a7ab502afaa"),
    "Health_and_Personal_Care": (2_982_326, 346_355, "387374ea5c9641a6e9dc09b93423414da4f8153b2975594e8b24c4bdd60b0462"),
    "Toys_and_Games": (2_252_771, 167_597, "e28a342ca89a79036a9a840c0385a3a3342a08d3d3450ea3eaf3d544cd65d3af"),
    "Video_Games": (1_324_753, 231_780, "f0ca171050c2e0f208d47f5267992476b21ab68a01439c21c8be1a4432982cfa"),
    "Tools_and_Home_Improvement": (1_926_047, 134_476, "ea650a9d79e69a78f011843104ecac2a3ed8059bf7405e5a19f3a25511c9d2c6"),
    "Beauty": (2_023_070, 198_502, "17d5232b90444beecfe758ce1446e5300230491f3a88ac802992ca95fc4c150f"),
    "Apps_for_Android": (2_638_172, 752_937, "ed8919d499a20949a60ea10c40c25d820783da7bead896f32213f98b1887d987"),
    "Office_Products": (1_243_186, 53_258, "4cd5f3d454e744b7017ad5918e995ec2893b577c2109dbaa6d65b375092f9630"),
    "Pet_Supplies": (1_235_316, 157_836, "5f963b813439471b4b2ce10fa7e9293da5995e4ec61f29d54489996a857b3442"),
    "Automotive": (1_373_768, 20_473, "d77d59c094d86b7c987edcbc8d99ae78c9061e6f89ba819e1a77a1951fe977cc"),
    "Grocery_and_Gourmet_Food": (1_297_156, 151_254, "ae9b32803a9f0ddf98222e00871e7a8ff7709e792f2ba8048131ca214617e33c"),
    "Patio_Lawn_and_Garden": (993_490, 13_272, "8edc47c5fe860e97e34ab1f339835606e551b03bec13bc4f967693c1b04ad3c0"),
    "Baby": (915_446, 160_792, "a219f779b2694f660f1ee243f2af71d63c2c9828425e716569faace305e978d1"),
    "Digital_Music": (836_006, 64_706, "fdf164882460ff26fa2521e01f6a9cf8005ad252ddce308dd03519064f02d80e"),
    "Musical_Instruments": (500_176, 10_261, "c541cf84fcc75d98cc595ebd856b0ebd351efce134671171c2de0d54b9573b9c"),
    "Amazon_Instant_Video": (583_933, 37_126, "249e1061d30db8c1230e4f3edd0523be12c37e6a8e6b9872a312cf6c326f157b"),
}

AMAZON_2018: dict[str, tuple[int, int | None, str]] = {
    "AMAZON_FASHION": (883_636, 3_176, "c72e84207601cd00840a91b9b4433c60b8be800a27aa86991f5cb57f29b99825"),
    "All_Beauty": (371_345, 5_269, "b3d9260771f9fe489a61180b9ff407e15e10f481a287848f69bc4709b669246f"),
    "Appliances": (602_777, 2_277, "35af90b093508f4a811d259b71b94d45b2f67b0daf3d702203d29ff6b16b1e28"),
    "Arts_Crafts_and_Sewing": (2_875_917, 494_485, "ab42ec44840c130b8bcb1993bad37021b5ff98f3aae55a120c2a0d0624be3be5"),
    "Automotive": (7_990_166, 1_711_519, "3cb4182e6623f1ac4511cf02a46c5ba11b761fa6d7feead7922199603f9d35df"),
    "Books": (51_311_621, 27_164_983, "2ff13d9763d38118851d8f8a4ab530f958e08ad48aa764c2d9bbe16ec227a3b8"),
    "CDs_and_Vinyl": (4_543_369, 1_443_755, "daedcfb79310479728f11cc1e66d49ec6dccdec124222391bf6f4f69ca5092db"),
    "Cell_Phones_and_Accessories": (3_722_011, 1_128_437, "c05835e7a7f7a1b0bab4fe4f2dbabecb102fde22de579758d10d36973d8b6a14"),
    "Clothing_Shoes_and_Jewelry": (32_292_099, 11_285_464, "8b78d8a965e2351468deeebe99edb6118561711be4d5b6294e24e25f910c4d3d"),
    "Digital_Music": (1_584_082, 169_781, "a73f1504ed58fdc3533a6817b4c89fc4f722eb46dc18f94a4566a4b171439c9c"),
    "Electronics": (20_994_353, 6_739_590, "1ce756643c0abed1b0d8a0738e67fc2510f3086d2bd52567942e18582dd01791"),
    "Gift_Cards": (147_194, 2_972, "e360486b46b7eef5f2ed3ecc0a486f15097b7600fbee4079632418496802704a"),
    "Grocery_and_Gourmet_Food": (5_074_160, 1_143_860, "9652d130382a3f1fcbfffffcaf3b8474e2649be034fbea8b0281b78424b65d40"),
    "Home_and_Kitchen": (21_928_568, 6_898_955, "618e6c4493bcdd147a2bf3015bc0835dfedbc03570fba7d89335d9cd360069eb"),
    "Industrial_and_Scientific": (1_758_333, 77_071, "29e194947309c1a0e81f0f9646fd6f63959949dbd807ea327e07074f35376a30"),
    "Kindle_Store": (5_722_988, 2_222_983, "f2fac32f72f51857f164c2c1671db141f06b2649608ebf1af2efba02a2fb219b"),
    "Luxury_Beauty": (574_628, 34_278, "5e1ab08a0147412d6a15ab4b8259df7fbc1fe09c747ba5c46486081ee4d68d24"),
    "Magazine_Subscriptions": (89_689, 2_375, "40287d71ee0c49030ee222888fb21a95941c2c31344e15bdd2e58e0f63831c2d"),
    "Movies_and_TV": (8_765_568, 3_410_019, "c7a6ca7769a34fd0d335e1cd25e359c18a8fcd474515f8b62986297e35b5fc4f"),
    "Musical_Instruments": (1_512_530, 231_392, "8933b17434e4984bcce8cf4ec43d847e0af6aa6d46add28bbb37b80e06da1b06"),
    "Office_Products": (5_581_313, 800_357, "2e24f3df092efc71fa4dea41162c7c1ab2d46bc53c4cace63794a3a66dc6d82f"),
    "Patio_Lawn_and_Garden": (5_236_058, 798_415, "103438afc6ddb6a9416b94804bf86251b7d3b15bdf6cc50e90d6787008f08e31"),
    "Pet_Supplies": (6_542_483, 2_098_325, "dac12cc077131bdf1c951cc0cc2016d6381e6b52eb65a3cb98456ce82a3c6bd9"),
    "Prime_Pantry": (471_614, 137_788, "ed55b1f239c4ec3402fdd15a603a4b84210177678c36c01db59487a8fddf685c"),
    "Software": (459_436, 12_805, "86d2ec7712b4c979bf7e7e984d39989b610c9f0e4ba4fc02c6aac7dcd9a15583"),
    "Sports_and_Outdoors": (12_980_837, 2_839_940, "da8d746f1602d5ff01d4056c8f55b228996a30d40069b658d71388b0bf3df5d6"),
    "Tools_and_Home_Improvement": (9_015_203, 2_070_831, "1406d988afa38c62aeba1e6b33dada18a570fa6d8dd59cbc6e5229f8ecae0db0"),
    "Toys_and_Games": (8_201_231, 1_828_971, "cfdf96d55b3d923c913f3b139e7fabdc20360989db38527ef5947982aa246d45"),
    "Video_Games": (2_565_349, 497_577, "c3fec1cce4ee67f0d51f8b53a7e294d8bbe6f75ca1d8732256e900b3c46606d8"),
}

AMAZON_2023: dict[str, tuple[int, int | None, str]] = {
    "All_Beauty": (693_929, 2_500, "54b894e68ad965aa73cdb80d8695c1ed37679c46f38b6f97b21ab0fb585aab24"),
    "Amazon_Fashion": (2_474_375, None, "7d08f3ad3ec331eb95cabf5a85c8e65f82f958429a17131e6d391f54532c0310"),
    "Appliances": (2_103_990, None, "0096701a2521a5fc71c5cfca11e953b0eb48a94a1b6ee4be65cb680c1fd56976"),
    "Arts_Crafts_and_Sewing": (8_841_661, 1_800_000, "05ca786b3f99269ba659d71891b55d23e37bd74ab6cec0b53214ccb656308bb3"),
    "Automotive": (19_692_836, 6_100_000, "9dda260d1d2cb91d0f967d0b4bfa0a09fda2904432023234569e45a6a30c48d3"),
    "Baby_Products": (5_953_891, 1_200_000, "e2a8d0498afed767ee2615db7fac549559d82490b1a73c7241b84b5e9e8c279e"),
    "Beauty_and_Personal_Care": (23_591_312, 6_600_000, "dd89a914e8c71d811c49a7e8fbdfc251c08bffb461b9544275e94018cb17f741"),
    "Books": (29_139_329, 9_500_000, "752e144c1d3804619711a6b21bd68a5505825064723bfcd5008ac26067abe04b"),
    "CDs_and_Vinyl": (4_772_071, 1_600_000, "1bade4e428efcffb549b6b7cb1f62a8cde9644e19a981a210b11a4c9c1561e75"),
    "Cell_Phones_and_Accessories": (20_560_480, 2_800_000, "1f6df616b0ae463c039f68c7082daec52d2c713b33adb57b85db3430a8e2373a"),
    "Clothing_Shoes_and_Jewelry": (65_179_586, 23_100_000, "ee93396e811c03d077290b78e323228c58814a034e3e98d0339e5314d7f7a9a7"),
    "Digital_Music": (128_763, None, "dbd5ddd5398d0eb9cfe224c9cc60470ccfd9c55e76fc82653dd3f44f6796c2a1"),
    "Electronics": (43_365_426, 15_500_000, "2ac3508c5d0ee55ed9fdc833629f751e0f0120b9a8cb30867c8c14b87911c170"),
    "Gift_Cards": (149_886, 2_400, "abfd9636afc5cdc1f46082ac1f9661b7c617cbd9c8a75652ad6a567173a14807"),
    "Grocery_and_Gourmet_Food": (14_081_170, 3_900_000, "4cb2da7f57dfe210eecf348ee16514d11460022f0ce4ed141aa66e3eb5410135"),
    "Handmade_Products": (656_096, None, "b024e3e4cb1b1f4c9cfbb44a506ea42f8b8430ee8caf0dfa69fef52b69ece408"),
    "Health_and_Household": (25_269_798, 7_200_000, "0a8982f9915bd18ea61caf4341db95c3fe1478abee907e6a61fec838374d2dca"),
    "Health_and_Personal_Care": (488_188, None, "5516d99b9747abff99003a7e1518833c2d64b10196201b6e6e90673bee15964d"),
    "Home_and_Kitchen": (66_623_880, 28_200_000, "9be4e2dc8b3dc513c02521644b2ae55f722b2941767e539dcfe518f6bdd4f70b"),
    "Industrial_and_Scientific": (5_116_105, 412_900, "97aea590deb258f634caea04b63f038dceb5990bbc92cac87ce2a985f0f91595"),
    "Kindle_Store": (25_302_305, 16_100_000, "ff546c451edfb403d10099912b816b11600e689a599621167d4847331fdc0a0d"),
    "Magazine_Subscriptions": (70_922, 176, "4892619d97f810331c2a278176b2be616de10403be59e48efbe65c5c1e7904d2"),
    "Movies_and_TV": (17_158_519, 7_400_000, "aa927ae5a4fc5262bfa6152ce522349f828760035242fd7e02b1dc139e867156"),
    "Musical_Instruments": (2_975_551, 511_800, "042648a89f479aaa2af4664dcb49966dbaf07bd5ebab6957799f5fb4c5efa2e0"),
    "Office_Products": (12_689_349, 1_800_000, "f91b5cfb6ed5ff52afe3e2f3ecc7918cbd8745b3241a8fc61011c3a41f23920b"),
    "Patio_Lawn_and_Garden": (16_292_310, 3_400_000, "a1ea496e71e488c6b12823d479ed6375384b82f6794b38e66d12a5dcd20c392d"),
    "Pet_Supplies": (16_597_408, 5_300_000, "cfc55406a1fbb507e4adfa18472e60a5de52fab3dd76f97fea25d30da1288003"),
    "Software": (4_828_480, 1_300_000, "11687bdbedc0bfd9bf86368465dcab40f2450d1ea8eabd3c830ba8b339edd9c0"),
    "Sports_and_Outdoors": (19_349_403, 3_500_000, "110617511c7303ca34d157b7d62fd20a02e412c3639b4c6e307a951fadf0414c"),
    "Subscription_Boxes": (15_953, None, "fb867ee253db3987ab3ceaf371da506df794b08c98cf9a99e9718d9e4e818188"),
    "Tools_and_Home_Improvement": (26_647_468, 7_900_000, "5845ac062a2c165d540badac13f00a8cb8cdaa30deb670a9b41db19d92c6bd1d"),
    "Toys_and_Games": (16_052_440, 3_900_000, "170fc8a18797c6091cf1b07bb3d97c13c94bfa030cf76c430bb8cac0dfb47a9f"),
    "Video_Games": (4_555_500, 814_600, "30692f9806e33a7b5d8b599b73d7ca33dbfefb0abdfc1578052a101f2e64b3cd"),
    "Unknown": (63_100_000, 14_600_000, "864c1dfa8b215a9a09fe0d17c7abc15f2da97078bc9acc7911783f2447016e10"),
}
# fmt: on
