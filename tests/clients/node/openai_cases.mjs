// OpenAI's JavaScript client, in Node and in a browser page.

const WHOLE = { model: "z-image-turbo", prompt: "a red apple", size: "96x64", seed: 5 };
const EDIT = { model: "z-image-edit", prompt: "make the background red", seed: 5 };

export function openaiCases(client, picture) {
  const images = async (answer) => ({ images: (await answer).data.map((image) => image.b64_json) });
  const streamed = async (answer) => {
    const events = [];
    for await (const event of await answer) events.push(event);
    return { events };
  };
  return {
    generate: () => images(client.images.generate(WHOLE)),
    several: () => images(client.images.generate({ ...WHOLE, n: 2 })),
    edit: () => images(client.images.edit({ ...EDIT, image: picture })),
    two_pictures: () => images(client.images.edit({ ...EDIT, image: [picture, picture] })),
    stream: () => streamed(client.images.generate({ ...WHOLE, stream: true, partial_images: 2 })),
    edit_stream: () => streamed(client.images.edit({ ...EDIT, image: picture, stream: true, partial_images: 1 })),
    refused: () => images(client.images.generate({ ...WHOLE, size: "65x64" })),
    unknown_model: () => images(client.images.generate({ ...WHOLE, model: "no-such-model" })),
    neutral_fields: () =>
      images(
        client.images.generate({
          ...WHOLE, quality: "high", style: "vivid", background: "auto", moderation: "low", user: "someone",
        }),
      ),
    url: async () => ({
      urls: (await client.images.generate({ ...WHOLE, response_format: "url" })).data.map((image) => image.url),
    }),
  };
}
